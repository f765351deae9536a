"""The machine that a figure was measured on, and what processes take of it while it is measured.

Linux tells of every process in /proc what it has used of the processor, and how much of its memory
is its own (anonymous) rather than a mapped file. The kernel keeps no highest value of the latter,
so `watch` looks every 20 ms. Elsewhere than on Linux the readings are absent, not wrong.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import statistics
import tempfile
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swarm.errors import LocalError

LOOK_EVERY_S = 0.02
MEMORY_DIRECTORY = Path("/dev/shm")
SPARE_BYTES = 10**9
"""Of memory, left to everything else: a machine that swaps measures nothing, and answers nobody."""
UNITS = {"KB": 1000, "MB": 1_000_000, "GB": 1_000_000_000}


def describe_machine() -> dict[str, Any]:
    """The machine in general words, its load now, and the date: what a figure means nothing
    without."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2),
        "date": time.strftime("%Y-%m-%d"),
    }


def parse_size(text: str) -> int:
    """Bytes of "4MB" (decimal: KB, MB, GB). Raises ValueError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(KB|MB|GB)", text)
    if found is None:
        raise ValueError(f"{text!r} is no size: write it like 256MB")
    return int(float(found[1]) * UNITS[found[2]])


def tell_size(size_bytes: float) -> str:
    """`parse_size` backwards."""
    unit = next((u for u in ("GB", "MB", "KB") if size_bytes >= UNITS[u]), "KB")
    return f"{size_bytes / UNITS[unit]:.4g}{unit}"


def summary(values: Sequence[float]) -> dict[str, float]:
    """Median and extremes."""
    return {
        "median": round(statistics.median(values), 4),
        "least": round(min(values), 4),
        "most": round(max(values), 4),
    }


def file_system(path: Path) -> str:
    """The type of the file system that holds `path`, "tmpfs" for memory; "" where unknown."""
    wanted, best, kind = str(path.resolve()), "", ""
    try:
        mounts = Path("/proc/self/mounts").read_text().splitlines()
    except OSError:
        return ""
    for line in mounts:
        _, place, found, *_ = line.split()
        inside = wanted == place or wanted.startswith(place.rstrip("/") + "/")
        if inside and len(place) >= len(best):
            best, kind = place, found
    return kind


def available_bytes() -> int | None:
    """Memory that can be taken without swapping; None where the system does not tell."""
    try:
        found = re.search(r"MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    except OSError:
        return None
    return None if found is None else int(found[1]) * 1024


def require_room(directory: Path, file_bytes: int, memory_bytes: int) -> None:
    """Refuse a measurement whose files in `directory`, or whose processes, do not fit.

    Raises LocalError.
    """
    free = shutil.disk_usage(directory).free
    if file_bytes > free:
        raise LocalError(
            f"this needs {tell_size(file_bytes)} for files, and {directory} has {tell_size(free)} "
            "left: choose a smaller size, or another place with --dir"
        )
    if file_system(directory) == "tmpfs":
        memory_bytes += file_bytes
    available = available_bytes()
    if available is not None and memory_bytes + SPARE_BYTES > available:
        raise LocalError(
            f"this needs {tell_size(memory_bytes)} of memory and leaves {tell_size(SPARE_BYTES)} "
            f"to others, and {tell_size(available)} are available: choose a smaller size, fewer "
            "peers, or a place on disk with --dir"
        )


@contextmanager
def working_directory(within: Path | None) -> Iterator[Path]:
    """A new directory in `within`, in memory by default, and deleted with the block."""
    if within is None and MEMORY_DIRECTORY.is_dir():
        within = MEMORY_DIRECTORY
    if within is not None:
        within.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=within, prefix="swarm-bench-") as directory:
        yield Path(directory)


@dataclass(frozen=True)
class Reading:
    """One look at one process. `cpu_s` is user and system time since its start."""

    at: float
    cpu_s: float
    anonymous_bytes: int


@dataclass
class Watch:
    """Readings by name of the process, oldest first; `at` is Unix time."""

    readings: dict[str, list[Reading]] = field(default_factory=dict)

    def peak_bytes(self, name: str, since: float = 0.0) -> int | None:
        """The most anonymous memory that was seen; None if the process never was."""
        seen = [r.anonymous_bytes for r in self.readings.get(name, []) if r.at >= since]
        return max(seen, default=None)

    def cpu_between(self, name: str, start: float, stop: float) -> float | None:
        """Seconds of processor time between two moments; None if they were not watched."""
        readings = self.readings.get(name, [])
        times = [reading.at for reading in readings]
        first, last = bisect_left(times, start), bisect_left(times, stop)
        if not readings or first >= len(readings):
            return None
        return readings[min(last, len(readings) - 1)].cpu_s - readings[first].cpu_s


def read_process(pid: int) -> Reading | None:
    """Look at a process; None if it has ended, or where /proc is not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # from the third on: the name may hold anything
    ticks = int(fields[11]) + int(fields[12])
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    if found is None:
        return None
    return Reading(time.time(), ticks / os.sysconf("SC_CLK_TCK"), int(found[1]) * 1024)


@contextmanager
def watch(pids: Mapping[str, int]) -> Iterator[Watch]:
    """Look at these processes, by name, for as long as the block runs."""
    seen = Watch({name: [] for name in pids})
    done = threading.Event()

    def look() -> None:
        while not done.wait(LOOK_EVERY_S):
            for name, pid in pids.items():
                reading = read_process(pid)
                if reading is not None:
                    seen.readings[name].append(reading)

    thread = threading.Thread(target=look, name="watch")
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()
