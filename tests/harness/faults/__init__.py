"""Real faults on real processes: nodes that are killed, stopped, cut off, and must go on.

    python -m tests.campaigns faults --plan tests/faults/storm.toml --seeds 20 --json storm.json
    python -m tests.campaigns faults --matrix tests/faults --json matrix.json

A written plan (`plan`) says what happens when. A run (`run`) starts the nodes of a testnet as
processes (`nodes`), as root in network namespaces of their own (`wires`), watches them through
their own status (`watch`), does what the plan says (`drive`), and judges at the end (`verdict`):
all rounds final, one model a round, one block a height, no process that died by itself. The
`runner` compares it with an undisturbed run, for its speed by turns (`turns`).

The simulator (`harness.simulate`) searches for rare orders of events by the thousand; this
finds what only real processes, disks, sockets and a busy machine do.
"""
