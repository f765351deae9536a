"""Run one campaign: `python -m tests.campaigns simulate --seeds 1000 --nodes 4`."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

TESTS = str(Path(__file__).parents[1])
TOOLS = {
    "simulate": "harness.simulate",
    "faults": "harness.faults.__main__",
    "fuzz": "harness.fuzz.__main__",
    "mutants": "harness.mutation.__main__",
}


def main(arguments: list[str]) -> int:
    """Run the tool that the first argument names with the others; its exit status."""
    if not arguments or arguments[0] not in TOOLS:
        print(f"usage: python -m tests.campaigns {'|'.join(TOOLS)} …", file=sys.stderr)
        return 2
    # Here and in every process that the tool starts.
    sys.path.insert(0, TESTS)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [TESTS, os.environ.get("PYTHONPATH")]))
    status = import_module(TOOLS[arguments[0]]).main(arguments[1:])
    return int(status or 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
