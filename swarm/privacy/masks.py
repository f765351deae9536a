"""Adds masks to an update, or takes them off a sum: keystreams, as words of the ring.

The masks of a pair cancel: the lower member adds what the higher takes away (Bonawitz et al. 2017).
Each key is for one input (`derivation`), so the stream needs no nonce. ChaCha20 (RFC 8439) is fast
on every machine, one thread at a time, and needs one piece of memory beside the update.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from numpy.typing import NDArray

from swarm.privacy.fixed_point import Words

PIECE_BYTES = 1 << 18
Sign = Literal[1, -1]
_ZEROS = bytes(PIECE_BYTES)


class Keystream:
    """The stream of one 32-byte key, read from its beginning."""

    def __init__(self, key: bytes) -> None:
        self._stream: CipherContext = Cipher(ChaCha20(key, bytes(16)), None).encryptor()

    def read_into(self, out: NDArray[np.uint8]) -> None:
        """The next bytes of the stream; at most PIECE_BYTES at once."""
        self._stream.update_into(memoryview(_ZEROS)[: len(out)], out.data)


class Masks:
    """The streams of several keys, from their beginning, for words that come piece by piece."""

    def __init__(self, keys: Iterable[tuple[bytes, Sign]]) -> None:
        self._streams = [(Keystream(key), sign) for key, sign in keys]
        self._noise = np.empty(PIECE_BYTES, np.uint8)

    def add_to(self, words: Words) -> None:
        """Add to, or take away from, the next words what each stream has next, in place."""
        step = PIECE_BYTES // words.dtype.itemsize
        for start in range(0, len(words), step):
            part = words[start : start + step]
            noise = self._noise[: part.nbytes]
            for stream, sign in self._streams:
                stream.read_into(noise)
                (np.add if sign > 0 else np.subtract)(part, noise.view(words.dtype), out=part)


def add_masks(words: Words, keys: Iterable[tuple[bytes, Sign]]) -> None:
    """Add to, or take away from, these words the stream of each key, in place."""
    Masks(keys).add_to(words)


def sign_of(me: int, other: int) -> Sign:
    """Whether `me` adds the mask that it shares with `other`, or takes it away."""
    return 1 if me < other else -1


class RandomWords:
    """Uniform numbers for stochastic rounding, from a 32-byte seed of the system's entropy."""

    def __init__(self, seed: bytes) -> None:
        self._stream = Keystream(seed)

    def __call__(self, count: int) -> NDArray[np.uint32]:
        """So many 32-bit numbers."""
        drawn: NDArray[Any] = np.empty(4 * count, np.uint8)
        for start in range(0, len(drawn), PIECE_BYTES):
            self._stream.read_into(drawn[start : start + PIECE_BYTES])
        return drawn.view("<u4")
