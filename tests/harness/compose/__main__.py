"""Run compose.yaml without a Docker engine: build, train, stop each node in turn, take down.

    python -m tests.campaigns compose

About ten minutes and 4 GB; as root, in a machine that you can throw away. Nothing is left of it,
unless `--work FOLDER` keeps the base and the image for the next time. Run it when Dockerfile,
compose.yaml or node_configs/ change: CI has no container engine.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from harness.compose.consortium import Consortium
from harness.compose.engine import Engine
from harness.compose.shell import Failed

ROOT = Path(__file__).parents[3]


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0 if everything that compose.yaml promises held."""
    parser = argparse.ArgumentParser(prog="compose", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--work", type=Path, help="Keep base and image here, for the next run.")
    options = parser.parse_args(arguments)
    work = options.work or Path(tempfile.mkdtemp(prefix="swarm-compose-"))
    work.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()

    def say(words: str) -> None:
        print(
            f"{time.monotonic() - began:6.0f} s  " + words.replace("\n", "\n          "), flush=True
        )

    try:
        engine = Engine(work.resolve(), ROOT)
        with ExitStack() as stack:
            engine.end()  # what an interrupted run left in `--work`
            stack.callback(engine.end)
            rehearse(engine, say)
    except Failed as failure:
        causes = [failure.__context__, failure]  # what failed first, if taking down failed as well
        for words in filter(None, causes):
            print(f"compose: {words}", file=sys.stderr)
        return 1
    finally:
        if options.work is None:
            shutil.rmtree(work)
    return 0


def rehearse(engine: Engine, say: Callable[[str], None]) -> None:
    """Everything, in the order of compose.yaml's comments. Raises Failed."""
    say("base images, in the place of a registry's: " + ", ".join(engine.make_bases()))
    consortium = Consortium(engine, say)
    consortium.build_and_start()
    consortium.train()
    consortium.stop_each()
    consortium.down()
    say("taken down, and nothing is left")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
