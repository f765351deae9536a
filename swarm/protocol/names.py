"""Names of members and plans: which the contract takes, and which two of them look alike.

Nobody may be shown something else than what is there, so the contract takes well-formed UTF-8
without control characters and without what changes the direction of text or cannot be seen. Unicode
still writes one name in several ways (an é is one character, or an e and an accent), so nodes
compare names by what a person sees before they found or admit.
"""

from __future__ import annotations

import re
import unicodedata

MAX_NAME_BYTES = 64
FORBIDDEN = (
    (0x00, 0x1F),  # C0
    (0x7F, 0x9F),  # delete, C1
    (0xAD, 0xAD),  # soft hyphen
    (0x61C, 0x61C),  # Arabic letter mark
    (0x180E, 0x180E),  # Mongolian vowel separator
    (0x200B, 0x200F),  # zero width, marks of direction
    (0x2028, 0x202E),  # separators of lines, directional embeddings
    (0x2060, 0x206F),  # joiners, isolates, invisible operators
    (0xFEFF, 0xFEFF),  # byte order mark
    (0xFFF9, 0xFFFB),  # interlinear annotation
    (0xE0000, 0xE0FFF),  # tags, variation selectors
)
"""First and last code points of what no name may contain."""
INVISIBLE = re.compile(
    # Spaces of no width, marks of direction, joiners, variation selectors, fillers and tags:
    # Unicode's Default_Ignorable_Code_Point, and the empty Braille pattern.
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    "\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)


def lookalike_key(name: str) -> str:
    """The same text for all spellings of a name that look alike: whatever the case, the Unicode
    form, the width of letters and spaces, and invisible characters. Letters of different scripts
    stay different, also where they look alike (a Latin and a Cyrillic a)."""
    seen = INVISIBLE.sub("", unicodedata.normalize("NFKC", INVISIBLE.sub("", name)))
    folded = unicodedata.normalize("NFKC", seen.casefold())
    return " ".join(folded.split())


def bytes_of(name: str) -> bytes:
    """A name as it is sent. Bytes that are no UTF-8 are carried as surrogates, as Python's file
    names are."""
    return name.encode("utf-8", "surrogateescape")


def find_bad_character(name: bytes) -> int | None:
    """Where, in bytes, the first character begins that no name may contain; None if all is well."""
    try:
        text, bad = name.decode("utf-8"), None
    except UnicodeDecodeError as error:
        text, bad = name[: error.start].decode("utf-8"), error.start
    at = 0
    for character in text:
        if any(first <= ord(character) <= last for first, last in FORBIDDEN):
            return at
        at += len(character.encode())
    return bad
