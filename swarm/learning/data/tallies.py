"""Counts of words that add up over sites, also where nobody knows the others' words beforehand.

Sums have places, and a site cannot make a place for a word that only it has. So a word is put into
four of a fixed number of cells, each of which sums up what is put there: how many words, of how
many rows, and the words themselves as numbers. A cell with one word in it tells the word; taken out
of its three other cells, it may leave one word alone there, and so on (an invertible Bloom lookup
table: Goodrich and Mitzenmacher, arXiv:1101.2245). All are whole numbers below 2**53, so the sum is
exact in any order.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOM = 256
MAX_BYTES = 48
_DIGIT = 4
_DIGITS = MAX_BYTES // _DIGIT
_PARTS = 4
_CELLS_PER_WORD = 2
_LEAST_CELLS = 256  # two words in the same four cells cannot be told apart
_WIDTH = 2 + _DIGITS + 1
"""Of a cell: how often words were put there, their rows, the words' digits, a check."""
_ONCE = 1024.0
"""As which a word counts: it is no number of rows, and must not be taken for a small one."""


def tally(
    values: Iterable[Any],
    among: Sequence[Any] | None = None,
    *,
    room: int = ROOM,
    at_least: int = 1,
) -> NDArray[np.float64]:
    """How often each value occurs: for `Plan.statistics`; `read_tally` reads the sum.

    `among` declares the values, in an order of which the counts [values] then are. Without it the
    words of all sites are joined; `room` is the most different ones that can be told apart. Values
    that occur in fewer than `at_least` rows of a site are not told: let it be no less than any
    site's `policy.min_count`, which would tear joined words apart. Raises ValueError naming a value
    that was not declared, or is longer than 48 bytes.
    """
    counts = Counter(str(value) for value in values)
    if among is not None:
        places = {str(value): place for place, value in enumerate(among)}
        unknown = next((word for word in counts if word not in places), None)
        if unknown is not None:
            raise ValueError(f"{unknown!r} is none of {', '.join(places)}")
        told = [counts[word] for word in places]
        return np.array([n if n >= at_least else 0 for n in told], dtype=np.float64)
    cells = np.zeros((_count_cells(room), _WIDTH))
    for word, rows in sorted(counts.items()):
        if rows >= at_least:
            entry = np.concatenate([[_ONCE, rows], _written(word)])
            for place in _places(word, len(cells)):
                cells[place] += entry
    return cells


def read_tally(summed: NDArray[Any]) -> dict[str, int]:
    """The rows of each value over all sites, by value, in order. Raises ValueError if there are
    more different values than there was room for."""
    cells = np.array(summed, dtype=np.float64)
    if cells.ndim != 2 or cells.shape[1] != _WIDTH or len(cells) % _PARTS:
        raise ValueError("this is no sum of tallies without declared values: give what was merged")
    found: dict[str, int] = {}
    waiting = list(range(len(cells)))
    while waiting:
        cell = waiting.pop()
        word = _word_alone_in(cells, cell)
        if word is not None:
            entry = cells[cell].copy()
            found[word] = int(entry[1])
            for place in _places(word, len(cells)):
                cells[place] -= entry
                waiting.append(place)
    if cells.any():
        room = len(cells) // _CELLS_PER_WORD
        raise ValueError(
            f"the sites have more than about {room} different values: give tally(…, room=…) more"
        )
    return dict(sorted(found.items()))


def _word_alone_in(cells: NDArray[np.float64], place: int) -> str | None:
    """The one word in a cell, if there is one and no other."""
    sites = cells[place, 0] / _ONCE
    if sites < 1 or sites % 1 or (cells[place, 2:] % sites).any():
        return None
    numbers = cells[place, 2:] / sites
    if not ((numbers >= 0) & (numbers < 2 ** (8 * _DIGIT))).all():
        return None
    raw = b"".join(int(n).to_bytes(_DIGIT, "big") for n in numbers[:-1]).rstrip(b"\0")
    try:
        word = raw.decode()
        alone = place in _places(word, len(cells)) and (_written(word) == numbers).all()
    except ValueError:  # several words, of which this is no sum
        return None
    return word if alone else None


def _written(word: str) -> NDArray[np.float64]:
    """A word as numbers, and a check that no sum of other words is likely to have."""
    raw = word.encode()
    if len(raw) > MAX_BYTES or raw.endswith(b"\0"):
        raise ValueError(f"{word!r:.80} is no value to count: give at most {MAX_BYTES} bytes")
    padded = raw.ljust(MAX_BYTES, b"\0")
    digits = [padded[i : i + _DIGIT] for i in range(0, MAX_BYTES, _DIGIT)]
    return np.array([float(int.from_bytes(d, "big")) for d in (*digits, _digest(word)[-_DIGIT:])])


def _places(word: str, cells: int) -> Iterator[int]:
    """The cells of a word, one in each quarter."""
    digest, each = _digest(word), cells // _PARTS
    for part in range(_PARTS):
        number = int.from_bytes(digest[7 * part : 7 * part + 7], "big")
        yield part * each + number % each


def _digest(word: str) -> bytes:
    return hashlib.sha256(b"swarm tally " + word.encode()).digest()


def _count_cells(room: int) -> int:
    if not 1 <= room <= 4096:
        raise ValueError(f"there is room for 1 to 4096 different values, not {room}")
    return _PARTS * -(-max(_CELLS_PER_WORD * room, _LEAST_CELLS) // _PARTS)
