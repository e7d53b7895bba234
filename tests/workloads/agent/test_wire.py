"""Who may speak to a gang's agents: all but the right key, run and language is refused, and nobody falls over it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from windlass.api.contract import RankEvent, Verdict
from windlass_workloads.agent import wire
from windlass_workloads.agent.messages import (
    DOWNWARD,
    UPWARD,
    Beat,
    Broken,
    Exited,
    Finish,
    Hello,
    Idle,
    Leaving,
    Ready,
    Said,
    Stop,
)
from windlass_workloads.agent.wire import Link, Refusal, gang_key, greet_follower, greet_leader, make_gang_key
from windlass_workloads.checkpoint.store import GANG_KEY, RunStore

KEY = bytes(range(32))
HELLO = Hello(pod="toy-1-2", pod_uid="u", pod_ip="10.0.0.2", node="n", index=1, ticket=2, attempt=2)


def proof(key: bytes, *parts: str) -> str:
    """As the protocol has it; written down here a second time on purpose."""
    return hmac.new(key, "\0".join(parts).encode(), hashlib.sha256).hexdigest()


@contextlib.asynccontextmanager
async def met(
    serve: Callable[[Link], Awaitable[Any]], limit: int = 1 << 16
) -> AsyncIterator[tuple[Link, asyncio.Future[Any]]]:
    """A link to a server that does one thing with its side; the future has what came of that."""
    result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = Link(reader, writer)
        try:
            result.set_result(await serve(link))
        except Exception as error:
            result.set_exception(error)
        finally:
            link.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=limit)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname(), limit=limit)
    try:
        yield Link(reader, writer), result
    finally:
        writer.close()
        server.close()
        if not result.done():
            with contextlib.suppress(Exception):
                await asyncio.wait_for(result, 5)


def raw(link: Link) -> asyncio.StreamWriter:
    return link._writer


# --- a leader meets strangers ------------------------------------------------------------------------------

GARBAGE: list[tuple[str, bytes]] = [
    ("nothing", b""),
    ("no newline", b'{"hello": "x"'),
    ("an HTTP request", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
    ("not UTF-8", b"\xff\xfe\n"),
    ("zero bytes", b"\0\0\0\n"),
    ("a list", b"[]\n"),
    ("a text", b'"hello"\n'),
    ("a number", b"17\n"),
    ("null", b"null\n"),
    ("no proof", b'{"hello": "{}", "challenge": "00"}\n'),
    ("numbers for texts", b'{"hello": 1, "challenge": 2, "proof": 3}\n'),
    ("lists for texts", b'{"hello": [], "challenge": {}, "proof": null}\n'),
    ("a wrong proof", b'{"hello": "{}", "challenge": "00", "proof": "00"}\n'),
    ("an empty proof", b'{"hello": "{}", "challenge": "00", "proof": ""}\n'),
    ("a proof of other letters", '{"hello": "{}", "challenge": "00", "proof": "bäd"}\n'.encode()),
    ("half a letter", b'{"hello": "{}", "challenge": "\\ud800", "proof": "\\ud800"}\n'),
    ("brackets without end", b"[" * 60_000 + b"\n"),
    ("too long a line", b"x" * 200_000 + b"\n"),
]


@pytest.mark.parametrize("sent", [sent for _, sent in GARBAGE], ids=[name for name, _ in GARBAGE])
async def test_garbage_is_refused_and_told_nothing(sent: bytes) -> None:
    async with met(lambda link: greet_follower(link, KEY, 1)) as (link, result):
        raw(link).write(sent)
        raw(link).write_eof()
        with pytest.raises(Refusal):
            await asyncio.wait_for(result, 5)
        first = json.loads(await link.line(5))
        assert sorted(first) == ["attempt", "challenge"]
        with pytest.raises(Refusal, match="connection"):
            await link.line(5)


async def test_a_stranger_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "GREETING_SECONDS", 0.05)
    async with met(lambda link: greet_follower(link, KEY, 1)) as (_, result):
        with pytest.raises(Refusal, match="silence"):
            await asyncio.wait_for(result, 5)


def answer(text: str, challenge: str, *, key: bytes = KEY, role: str = "follower", mine: str = "00") -> bytes:
    fields = {"hello": text, "challenge": mine, "proof": proof(key, role, challenge, mine, text)}
    return json.dumps(fields).encode() + b"\n"


WIRE_HELLO = HELLO.model_dump_json(by_alias=True)


@pytest.mark.parametrize(
    ("forge", "said"),
    [
        (lambda challenge: answer(WIRE_HELLO, challenge, key=b"x" * 32), "wrong key"),
        (lambda challenge: answer(WIRE_HELLO, challenge, key=b""), "wrong key"),
        (lambda challenge: answer(WIRE_HELLO, challenge, role="leader"), "wrong key"),
        (lambda challenge: answer(WIRE_HELLO, "another challenge"), "wrong key"),
        (lambda challenge: answer(WIRE_HELLO, challenge).replace(b"toy-1-2", b"toy-9-2"), "wrong key"),
        (lambda challenge: answer("{}", challenge), "not a hello"),
        (lambda challenge: answer("not JSON", challenge), "not a hello"),
        (lambda challenge: answer('{"pod": 1}', challenge), "not a hello"),
    ],
    ids=["other key", "no key", "other role", "replayed", "altered", "empty", "no JSON", "other form"],
)
async def test_only_a_fresh_proof_of_these_very_words_counts(
    forge: Callable[[str], bytes], said: str
) -> None:
    async with met(lambda link: greet_follower(link, KEY, 2)) as (link, result):
        (challenge,) = await link.heard("challenge")
        raw(link).write(forge(challenge))
        with pytest.raises(Refusal, match=said):
            await asyncio.wait_for(result, 5)


async def test_challenges_are_never_the_same() -> None:
    seen = set()
    for _ in range(20):
        async with met(lambda link: greet_follower(link, KEY, 1)) as (link, result):
            (challenge,) = await link.heard("challenge")
            seen.add(challenge)
            raw(link).write_eof()
            with pytest.raises(Refusal):
                await asyncio.wait_for(result, 5)
    assert len(seen) == 20 and all(len(each) == 64 for each in seen)


@pytest.mark.parametrize(
    ("leader", "follower", "leader_said", "follower_said"),
    [
        (1, 1, None, None),
        (3, 3, None, None),
        (2, 1, None, None),
        (1, 2, "connection closed", "the leader is of an older attempt"),
    ],
)
async def test_attempts_meet_or_part(
    leader: int, follower: int, leader_said: str | None, follower_said: str | None
) -> None:
    hello = HELLO.model_copy(update={"attempt": follower})
    async with met(lambda link: greet_follower(link, KEY, leader)) as (link, result):
        problem = None
        try:
            await greet_leader(link, KEY, hello)
        except Refusal as error:
            problem = str(error)
            link.close()
        assert problem == follower_said
        if leader_said is None:
            assert await asyncio.wait_for(result, 5) == hello
        else:
            with pytest.raises(Refusal, match=leader_said):
                await asyncio.wait_for(result, 5)


async def test_a_leader_refuses_an_agent_of_an_attempt_that_it_knows_nothing_of() -> None:
    # A follower that does not check for itself.
    async with met(lambda link: greet_follower(link, KEY, 1)) as (link, result):
        (challenge,) = await link.heard("challenge")
        raw(link).write(answer(WIRE_HELLO, challenge))
        with pytest.raises(Refusal, match="a newer attempt's agent came to an old leader"):
            await asyncio.wait_for(result, 5)


# --- a follower meets strangers --------------------------------------------------------------------------

FALSE_LEADERS: list[tuple[str, bytes]] = [
    ("nothing", b""),
    ("not a greeting", b"220 smtp ready\n"),
    ("no attempt", b'{"challenge": "00"}\n'),
    ("an attempt in words", b'{"challenge": "00", "attempt": "two"}\n'),
    ("a negative attempt", b'{"challenge": "00", "attempt": "-1"}\n'),
    ("an attempt as a number", b'{"challenge": "00", "attempt": 2}\n'),
    ("a digit that is no number", '{"challenge": "00", "attempt": "²"}\n'.encode()),
    ("a number without end", b'{"challenge": "00", "attempt": "%s"}\n' % (b"9" * 5000)),
    ("no proof", b'{"challenge": "00", "attempt": "2"}\n{}\n'),
    ("a wrong proof", b'{"challenge": "00", "attempt": "2"}\n{"proof": "00"}\n'),
    ("a proof of other letters", '{"challenge": "00", "attempt": "2"}\n{"proof": "ß"}\n'.encode()),
    ("too long a line", b"[" * 100_000),
]


@pytest.mark.parametrize("sent", [sent for _, sent in FALSE_LEADERS], ids=[name for name, _ in FALSE_LEADERS])
async def test_who_answers_at_the_leaders_name_must_prove_itself(sent: bytes) -> None:
    async def serve(link: Link) -> None:
        raw(link).write(sent)
        await link.flush(1)

    async with met(serve) as (link, _):
        with pytest.raises(Refusal):
            await asyncio.wait_for(greet_leader(link, KEY, HELLO), 5)


async def test_a_mirror_is_no_leader() -> None:
    # Somebody without the key sends a follower's own words back to it.
    async def serve(link: Link) -> None:
        await link.say(challenge="00" * 32, attempt="2")
        _, challenge, theirs = await link.heard("hello", "challenge", "proof")
        await link.say(proof=theirs)
        assert challenge

    async with met(serve) as (link, _):
        with pytest.raises(Refusal, match="the leader has another key"):
            await greet_leader(link, KEY, HELLO)


# --- the key ---------------------------------------------------------------------------------------------


def test_a_run_has_one_key_that_only_its_user_reads(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    assert gang_key(store) is None
    key = make_gang_key(store)
    assert len(key) == wire.KEY_BYTES
    assert make_gang_key(store) == gang_key(store) == key
    assert (tmp_path / GANG_KEY).stat().st_mode & 0o077 == 0
    assert make_gang_key(RunStore(tmp_path / "other")) != key


@pytest.mark.parametrize("content", [b"zz" * 32, b"\xff\xff", b"abc", b"00"], ids=str)
def test_a_key_that_cannot_be_one_is_refused_not_used(tmp_path: Path, content: bytes) -> None:
    store = RunStore(tmp_path)
    store.write(GANG_KEY, content)
    with pytest.raises(Refusal, match=r"gang\.key"):
        gang_key(store)
    with pytest.raises(Refusal, match=r"gang\.key"):
        make_gang_key(store)


# --- lines -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "said"),
    [(b"half a line", "connection closed"), (b"", "connection closed"), (b"x" * 5000, "connection lost")],
    ids=["half", "nothing", "too long"],
)
async def test_what_is_no_line_ends_the_connection(sent: bytes, said: str) -> None:
    async with met(lambda link: link.line(5), limit=1000) as (link, result):
        raw(link).write(sent)
        raw(link).write_eof()
        with pytest.raises(Refusal, match=said):
            await asyncio.wait_for(result, 5)


async def test_silence_has_a_limit_and_lines_within_it_arrive() -> None:
    async def serve(link: Link) -> list[bytes]:
        found = [await link.line(5), await link.line(5)]
        with pytest.raises(Refusal, match="silence"):
            await link.line(0.02)
        return found

    async with met(serve) as (link, result):
        link.send(Beat())
        link.send(Idle(incarnation=3))
        lines = await asyncio.wait_for(result, 5)
    assert [type(UPWARD.validate_json(line)) for line in lines] == [Beat, Idle]


async def test_sending_into_a_connection_that_is_gone_is_no_error() -> None:
    async with met(lambda link: link.line(5)) as (link, result):
        link.close()
        link.close()
        for _ in range(3):
            link.send(Beat())
        await link.flush(1)
        with pytest.raises(Refusal):
            await asyncio.wait_for(result, 5)


MESSAGES: list[Any] = [
    Ready(ready=False),
    Said(incarnation=3, event=RankEvent(type="Step", at=1.5, step=7, loss=0.25)),
    Exited(incarnation=3, rank=1, code=137, signal=9, oom=True, at=2.0, tail=["ünï", "\x00\x1b[0m"]),
    Idle(incarnation=3),
    Leaving(at=2.0),
    Broken(at=2.0, tail=["boom"]),
    Beat(),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.type)
def test_each_message_is_the_same_after_the_way(message: Any) -> None:
    line = message.model_dump_json(by_alias=True, exclude_none=True).encode()
    assert b"\n" not in line
    assert UPWARD.validate_json(line) == message


@pytest.mark.parametrize(
    "message",
    [Stop(incarnation=2, mode="Save"), Finish(verdict=Verdict(result="Preempted", step=4)), Beat()],
    ids=lambda message: message.type,
)
def test_each_order_is_the_same_after_the_way(message: Any) -> None:
    assert DOWNWARD.validate_json(message.model_dump_json(by_alias=True, exclude_none=True)) == message


@pytest.mark.parametrize(
    "line",
    [b"", b"{}", b'{"type": "Unheard"}', b'{"type": "Stop", "incarnation": 1, "mode": "Gently"}', b"[[[["],
)
def test_another_language_is_an_error_of_one_kind(line: bytes) -> None:
    for form in (UPWARD, DOWNWARD):
        with pytest.raises(ValueError, match="validation error"):
            form.validate_json(line)


@given(tail=st.lists(st.text(max_size=40), max_size=5), at=st.floats(0, 1e10))
@settings(max_examples=40, deadline=None)
def test_no_log_line_breaks_a_message(tail: list[str], at: float) -> None:
    tail = [line.encode(errors="replace").decode() for line in tail]
    message = Exited(incarnation=1, rank=0, at=at, tail=tail)
    line = message.model_dump_json(by_alias=True, exclude_none=True)
    assert "\n" not in line
    assert UPWARD.validate_json(line) == message
