"""What a corpus is made of, for people: counts by source, what was dropped and why, with examples.

Made by `stages` at the end, from what each task reported. The page is one file without scripts or anything from
elsewhere; every text from the data is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Final

from windlass_workloads.corpus import flat
from windlass_workloads.corpus.read import EXCERPT
from windlass_workloads.corpus.rules import SETS
from windlass_workloads.corpus.shards import Shard
from windlass_workloads.corpus.sign import SHOWN, Sign
from windlass_workloads.corpus.tasks import Json, report_of

DROPS: Final = {
    "NotUTF8": "whose bytes are no UTF-8",
    "NotJSON": "on a line that is no JSON",
    "NoText": "without a text in the column",
    "LineTooLong": "longer than one document may be",
    "Empty": "in which nothing is left after cleaning",
    "ExactDuplicate": "whose cleaned text was there before",
    "NearDuplicate": "that resemble an earlier document by the threshold or more",
}
"""Reasons beside those of rules."""
STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a}"
    "table{border-collapse:collapse;width:100%;margin:1rem 0}td,th{border-bottom:1px solid #ccc;padding:.3rem .6rem;"
    "text-align:left;vertical-align:top}td.n,th.n{text-align:right}pre{white-space:pre-wrap;margin:0;font-size:13px}"
)


def summed(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Counts added up by name."""
    found: dict[str, int] = {}
    for one in counts:
        for name, count in one.items():
            found[name] = found.get(name, 0) + count
    return dict(sorted(found.items()))


def sheet(
    sources: Sequence[str],
    signed: Sequence[Sign],
    shards: Sequence[Shard],
    twins: Mapping[str, Mapping[int, int]],
) -> Json:
    """The counts, as JSON."""
    reports = [report_of(task) for task in signed]
    written = [report_of(task) for task in shards]
    repeated = repeated_by_piece(reports, twins)
    rows = []
    for number, name in enumerate(sources):
        mine = [place for place, report in enumerate(reports) if report["source"] == number]
        dropped = summed([reports[place]["dropped"] for place in mine] + [repeated[place] for place in mine])
        rows.append(
            {
                "name": name,
                "read": sum(reports[place]["read"] for place in mine),
                "documents": sum(written[place]["documents"] for place in mine),
                "bytes": sum(written[place]["bytes"] for place in mine),
                "dropped": dropped,
            }
        )
    shown: dict[str, list[Json]] = {}
    for report in reports:
        for reason, examples in report["shown"].items():
            shown[reason] = [*shown.get(reason, []), *examples][:SHOWN]
    return {
        "read": sum(row["read"] for row in rows),
        "documents": sum(row["documents"] for row in rows),
        "bytes": sum(row["bytes"] for row in rows),
        "dropped": summed(row["dropped"] for row in rows),
        "sources": rows,
        "shown": shown | examples_of(signed, reports, twins),
    }


def repeated_by_piece(
    reports: Sequence[Json], twins: Mapping[str, Mapping[int, int]]
) -> list[dict[str, int]]:
    """How many documents of each piece repeat others, by reason."""
    found: list[dict[str, int]] = [{} for _ in reports]
    end, piece = 0, -1
    numbers = sorted((number, reason) for reason, pairs in twins.items() for number in pairs)
    for number, reason in numbers:
        while number >= end:
            piece += 1
            end += reports[piece]["documents"]
        found[piece][reason] = found[piece].get(reason, 0) + 1
    return found


def examples_of(
    signed: Sequence[Sign], reports: Sequence[Json], twins: Mapping[str, Mapping[int, int]]
) -> dict[str, list[Json]]:
    """The first repetitions of each kind, each with the document that it repeats."""
    starts = [0]
    for report in reports:
        starts.append(starts[-1] + report["documents"])

    def look(number: int) -> tuple[str, str]:
        piece = next(place for place in range(len(reports)) if number < starts[place + 1])
        with flat.Reader(signed[piece].directory, signed[piece].bands.bands) as reader:
            row = number - starts[piece]
            return reader.places()[row], reader.text(row)[:EXCERPT]

    found: dict[str, list[Json]] = {}
    for reason, pairs in twins.items():
        for number in sorted(pairs)[:SHOWN]:
            (place, text), (other, same) = look(number), look(pairs[number])
            example = {"place": place, "text": text, "repeats": other, "repeatedText": same}
            found.setdefault(reason, []).append(example)
    return found


def reasons(rules: str) -> dict[str, str]:
    """What each reason means, the rules' own among them."""
    return DROPS | {rule.name: rule.drops for rule in SETS[rules]}


def page(index: Json) -> str:
    """The same as a page."""
    known = reasons(index["recipe"]["rules"])
    threshold = index["recipe"]["threshold"]
    kept = f"<b>{index['documents']:,} documents</b> kept, {index['bytes']:,} bytes"
    head = f"<p>{index['read']:,} rows read, {kept}.</p>"
    how = f"<p>Rules: {escape(index['recipe']['rules'])}. Near repetitions: "
    how += "not looked for" if threshold is None else f"from a resemblance of {threshold}"
    how += f". Digest: <code>{escape(index['digest'])}</code></p>"
    sources = "".join(
        f"<tr><td>{escape(row['name'])}</td>{number(row['read'])}{number(row['documents'])}{number(row['bytes'])}</tr>"
        for row in index["sources"]
    )
    drops = "".join(
        f"<tr><td>{escape(reason)}</td>{number(count)}<td>documents {escape(known.get(reason, ''))}</td></tr>"
        for reason, count in index["dropped"].items()
    )
    shown = "".join(
        f"<tr><td>{escape(reason)}</td><td>{escape(one['place'])}</td><td>{body(one)}</td></tr>"
        for reason, rows in sorted(index["shown"].items())
        for one in rows
    )
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Corpus</title><style>{STYLE}</style>"
        f"<h1>Corpus</h1>{head}{how}"
        f"<h2>Sources</h2><table><tr><th>Name<th class=n>Read<th class=n>Kept<th class=n>Bytes</tr>{sources}</table>"
        f"<h2>Dropped</h2><table><tr><th>Reason<th class=n>Count<th>What it drops</tr>{drops}</table>"
        f"<h2>Examples</h2><table><tr><th>Reason<th>Place<th>Text</tr>{shown}</table></html>\n"
    )


def number(value: int) -> str:
    """A cell with a number."""
    return f"<td class=n>{value:,}</td>"


def body(example: Json) -> str:
    """An example's text, with what it repeats."""
    text = f"<pre>{escape(example['text'])}</pre>"
    if "repeats" in example:
        text += f"repeats {escape(example['repeats'])}:<pre>{escape(example['repeatedText'])}</pre>"
    return text
