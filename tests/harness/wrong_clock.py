"""`swarm` on a machine whose clock is wrong: `python wrong_clock.py SECONDS COMMAND…`.

A network namespace has no clock of its own, so the process is given one: what it reads of Unix time
is so many seconds ahead.
"""

from __future__ import annotations

import sys
import time


def main() -> None:
    """Put the clock ahead before anything reads it, then be `swarm`."""
    ahead_s, read = float(sys.argv[1]), time.time
    time.time = lambda: read() + ahead_s
    from swarm.cli import main as swarm

    swarm(sys.argv[2:], prog_name="swarm")


if __name__ == "__main__":
    main()
