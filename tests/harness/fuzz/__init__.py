"""Hostile bytes for everything that reads bytes: seeded, bounded, in one process.

    python -m tests.campaigns fuzz --seconds 60 --seed 7        every protocol, a minute in all
    python -m tests.campaigns fuzz --protocol control --seconds 600
    python -m tests.campaigns fuzz --guided --seconds 600       decoders alone, by coverage

A *target* is one place where bytes from outside come in. What it is offered are mutations of what
real code sends (`mutations`), because noise alone never gets past the first check. It may accept
them or refuse them with one of our errors; anything else that it raises, an answer that takes
longer than its deadline, and memory, handles or tasks that stay behind are findings, reported with
the seed and the bytes. Every so often, and at the end, an honest request must still be answered.

`decoders` holds the pure functions, `told` those for what members tell each other beside the chain,
`kept` what a node and an audit read of its directory, `services` what runs behind them (chain,
JSON-RPC, contract), `browser` the dashboard, `wires` what listens on sockets, `grammars` what
mutations seldom reach.
"""

from __future__ import annotations

from harness.fuzz import browser, decoders, grammars, kept, services, told, wires
from harness.fuzz.campaign import Target

ROOMS = (decoders, told, kept, services, browser, grammars, wires)


def all_targets() -> list[Target]:
    """Every place where bytes come in."""
    return [target for room in ROOMS for target in room.targets()]
