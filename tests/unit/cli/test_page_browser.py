"""The page in a real browser: drawn as it says, in light and dark, and deaf to scripts.

Needs Chromium or Chrome: on PATH, named by CHROME_PATH, or in playwright's cache. The page's text and form are tested
without one in test_page.
"""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from unit.cli.test_page import HOSTILE, Reader, poisoned
from unit.cli.test_timeline import a_run
from windlass.cli import page

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome", "chromium-headless-shell")
CACHED = "ms-playwright/chromium*/chrome-linux*/*"
# Measures what the browser made of the bars, and leaves it where --dump-dom shows it.
MEASURE = """<script>
const told = [...document.querySelectorAll('.bar')].map(bar => {
  const parts = [...bar.children].map(part => part.getBoundingClientRect());
  const sum = parts.reduce((whole, part) => whole + part.width, 0);
  return [bar.getBoundingClientRect().width, sum, Math.min(...parts.map(part => part.height))].join(',');
});
document.body.dataset.told = told.join(';');
document.body.dataset.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
</script>"""


def browser() -> str | None:
    """A browser's program, where there is one."""
    named = os.environ.get("CHROME_PATH")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    cached = [str(path) for path in sorted(cache.glob(CACHED)) if path.name in ("chrome", "headless_shell")]
    return named or next(filter(None, map(shutil.which, NAMES)), None) or next(iter(cached), None)


PROGRAM = browser()
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no Chromium or Chrome here; set CHROME_PATH to one")


def look(directory: Path, text: str, *options: str) -> str:
    """Open a page and return what the browser printed."""
    file = directory / "page.html"
    file.write_text(text, encoding="utf-8")
    command = [PROGRAM or "", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    profile = f"--user-data-dir={directory / 'profile'}"
    done = subprocess.run(
        [*command, profile, "--window-size=1300,1400", *options, file.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-500:]
    return done.stdout


def corner(picture: Path) -> tuple[int, ...]:
    """Red, green and blue of the first pixel of a PNG; its filter changes nothing there."""
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG") and struct.unpack(">II", data[16:24])[0] == 1300
    at, packed = 8, b""
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        packed += data[at + 8 : at + 8 + size] if kind == b"IDAT" else b""
        at += size + 12
    return tuple(zlib.decompressobj().decompress(packed, 4)[1:4])


def test_bars_are_as_wide_as_drawn(tmp_path: Path) -> None:
    policy = f'<meta http-equiv="Content-Security-Policy" content="{page.POLICY}">\n'
    made = page.render(a_run())
    assert policy in made
    dom = look(tmp_path, made.replace(policy, "").replace("</body>", f"{MEASURE}</body>"), "--dump-dom")
    found = re.search(r'data-told="([^"]*)"', dom)
    assert found, dom[-300:]
    bars = [tuple(map(float, bar.split(","))) for bar in found[1].split(";")]
    assert len(bars) == 2
    for width, parts, height in bars:
        assert width > 1000 and abs(width - parts) < 1 and height >= 20
    assert 'data-overflow="0"' in dom, "the page is wider than its window"


def test_the_browser_reads_the_text_that_was_meant(tmp_path: Path) -> None:
    dom = look(tmp_path, page.render(poisoned(HOSTILE)), "--dump-dom")
    read = Reader(dom)
    assert HOSTILE in read.text
    assert {tag for tag, _ in read.tags}.isdisjoint({"script", "img"})


def test_a_script_in_the_page_does_not_run(tmp_path: Path) -> None:
    script = "<script>document.title = 'owned'</script></body>"
    dom = look(tmp_path, page.render(a_run()).replace("</body>", script), "--dump-dom")
    assert "<title>team/triage</title>" in dom and "<title>owned" not in dom


def test_light_and_dark(tmp_path: Path) -> None:
    shades = {}
    for name, scheme in (("light", 1), ("dark", 0)):
        picture = tmp_path / f"{name}.png"
        chosen = f"--blink-settings=preferredColorScheme={scheme}"
        look(tmp_path, page.render(a_run()), f"--screenshot={picture}", chosen)
        shades[name] = sum(corner(picture))
    assert shades["light"] == 3 * 255 and shades["dark"] < 3 * 40
