"""Running programs with a deadline, and saying what failed."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

SHOWN_CHARACTERS = 4000
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class Failed(Exception):
    """A step did not do what it must; the words say which, and what it printed."""


def run(
    command: Sequence[str],
    within_s: float,
    *,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """What the command prints. Raises Failed if it fails or takes too long."""
    status, shown = try_to_run(command, within_s, environment=environment, cwd=cwd)
    if status != 0:
        raise Failed(f"{' '.join(command)} ended with {status}:\n{shown[-SHOWN_CHARACTERS:]}")
    return shown


def try_to_run(
    command: Sequence[str],
    within_s: float,
    *,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> tuple[int, str]:
    """The command's exit status and what it prints. Raises Failed if it takes too long."""
    try:
        done = subprocess.run(
            command, env=os.environ | (environment or {}), cwd=cwd, timeout=within_s,
            text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(command)} has not ended within {within_s:.0f} s") from None
    except OSError as error:
        raise Failed(f"{' '.join(command)}: {error}") from None
    return done.returncode, COLOURS.sub("", done.stdout)


def wait_until(what: str, within_s: float, holds: Callable[[], bool], every_s: float = 1.0) -> None:
    """Return once `holds()`. Raises Failed, naming `what`, if it never does."""
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {within_s:.0f} s")
        time.sleep(every_s)
