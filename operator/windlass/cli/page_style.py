"""Colours and style sheet of the page that `windlass report` writes; light or dark as the reader's system is.

One colour for each part of goodput and each stretch of the timeline, told apart by lightness too. Nothing is loaded.
"""

from __future__ import annotations

from typing import Final

COLOURS: Final = {
    "queued": "#b8bcc4",
    "scheduling": "#9aa3b2",
    "pulling": "#7f8ea8",
    "starting": "#6c86c4",
    "loading": "#4fa3d1",
    "training": "#2f9e6e",
    "validating": "#7cc47f",
    "checkpoint_stall": "#c9b458",
    "recovering": "#d1495b",
    "reworked": "#e07b39",
    "back_off": "#a05195",
    "suspended": "#d8d2c4",
    "finishing": "#5b7f95",
}
TRACK: Final = {
    "waiting": COLOURS["queued"],
    "starting": COLOURS["starting"],
    "running": COLOURS["training"],
    "recovering": COLOURS["recovering"],
    "suspended": COLOURS["suspended"],
}
RULES: Final = "".join(
    [f".part-{name}{{background:{colour}}}" for name, colour in COLOURS.items()]
    + [f".part-at-{name}{{background:{colour}}}" for name, colour in TRACK.items()]
)
STYLE: Final = (
    ":root{color-scheme:light dark;--text:#1c1f24;--soft:#5c6370;--line:#d9dce2;--back:#ffffff;--block:#f5f6f8}"
    "@media(prefers-color-scheme:dark){:root{--text:#e6e8eb;--soft:#a0a7b4;--line:#3a3f49;--back:#16181c;"
    "--block:#20242b}}"
    "body{margin:0;background:var(--back);color:var(--text);font:15px/1.5 system-ui,sans-serif}"
    "main{max-width:1180px;margin:0 auto;padding:24px}"
    "h1{font-size:24px;margin:0 0 8px;overflow-wrap:anywhere}h2{font-size:17px;margin:28px 0 10px}"
    "dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 20px;margin:0}"
    "dt{color:var(--soft)}dd{margin:0;overflow-wrap:anywhere}"
    "table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}"
    "th,td{text-align:left;padding:4px 10px 4px 0;border-bottom:1px solid var(--line);white-space:nowrap;"
    "vertical-align:top}"
    "th{color:var(--soft);font-weight:600;white-space:nowrap}.number{text-align:right}.wide{white-space:normal;overflow-wrap:anywhere}.scroll{overflow-x:auto}"
    ".bar{display:flex;height:28px;border-radius:4px;overflow:hidden;background:var(--block)}"
    ".bar span{flex:none;min-width:0}"
    ".marks{position:relative;height:10px}.marks b{position:absolute;top:2px;width:2px;height:8px;"
    "background:var(--text)}"
    ".key{list-style:none;display:flex;flex-wrap:wrap;gap:4px 16px;padding:0;margin:10px 0;color:var(--soft)}"
    ".key i{display:inline-block;width:11px;height:11px;border-radius:2px;margin-right:6px}"
    "pre{background:var(--block);padding:10px;border-radius:4px;overflow-x:auto;font-size:13px}"
    "p,summary{color:var(--soft)}details{margin:10px 0}" + RULES
)
