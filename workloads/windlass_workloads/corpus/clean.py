"""What is done to every text before anything is judged: the same letters for the same text, and no others.

Called by `sign` for each document that could be read. Nothing here takes words away.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final

OTHER_LINE_ENDS: Final = "\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
LINE_ENDS: Final = re.compile(r"\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
# What is no text: control characters but tab and line end, and the marks of byte order and of nothing.
NO_TEXT: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufeff\ufffe\uffff]")
ENDS_OF_LINES: Final = re.compile(r"[ \t]+(?=\n)")
MANY_LINES: Final = re.compile(r"\n{4,}")


def clean(text: str) -> str:
    """The text in Unicode's composed form (NFC), with one kind of line end and no space before it.

    Three line ends in a row are the most that stay; space around the whole goes.
    """
    # Most texts need none of this: to look for letters is ten times faster than to search for patterns.
    if any(map(text.__contains__, OTHER_LINE_ENDS)):
        text = LINE_ENDS.sub("\n", text)
    if not text.replace("\n", "").replace("\t", "").isprintable():
        text = NO_TEXT.sub("", text)
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    if " \n" in text or "\t\n" in text:
        text = ENDS_OF_LINES.sub("", text)
    if "\n\n\n\n" in text:
        text = MANY_LINES.sub("\n\n\n", text)
    return text.strip()
