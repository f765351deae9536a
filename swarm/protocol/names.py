"""Names of institutions: which two of them a person would take for one.

Names go on the chain as they are typed. Unicode writes one name in several ways (an é is one
character, or an e and an accent), and has characters that nobody sees, so that two members could
bear what looks like one name.
"""

from __future__ import annotations

import re
import unicodedata

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
