"""How fast this node sends blobs, all peers together."""

from __future__ import annotations

import threading
import time

BURST_S = 0.1


class Pacer:
    """Spreads bytes over time at `bytes_per_s`; None is as fast as it goes. For any thread.

    Senders reserve in turn, so those that send at once share the rate by their number.
    """

    def __init__(self, bytes_per_s: float | None) -> None:
        self._bytes_per_s = bytes_per_s
        self._free_at = 0.0
        self._lock = threading.Lock()

    @property
    def is_limited(self) -> bool:
        return self._bytes_per_s is not None

    def reserve(self, size_bytes: int, now: float | None = None) -> float:
        """Take a place for so many bytes; the seconds to wait before sending them."""
        if self._bytes_per_s is None:
            return 0.0
        if now is None:
            now = time.monotonic()
        with self._lock:
            starts_at = max(self._free_at, now - BURST_S)
            self._free_at = starts_at + size_bytes / self._bytes_per_s
        return max(0.0, starts_at - now)
