"""docs/operations.md, followed by six institutions in network namespaces of their own.

    python -m tests.campaigns namespaces

About six minutes, as root, with `ip`. swarm is installed by pip into a new environment, beside the
packages of the one that runs this (`install` tries those). `--keep FOLDER` leaves the nodes'
directories and logs there.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from harness.compose.shell import Failed, run
from harness.faults.wires import open_wires
from harness.namespaces.story import Story
from swarm.errors import SwarmError

ROOT = Path(__file__).parents[3]
MACHINES, INSTALL_S = 6, 300


def install(folder: Path) -> Path:
    """Install this tree into a new environment, without its dependencies; its programs."""
    environment = folder / "venv"
    run([sys.executable, "-m", "venv", str(environment)], INSTALL_S)
    [packages] = environment.glob("lib/python*/site-packages")
    (packages / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps"]
    run([*pip, str(ROOT)], INSTALL_S, environment={"PYTHONPATH": ""})
    return environment / "bin"


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0 if everything was as the docs say."""
    parser = argparse.ArgumentParser(prog="namespaces", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--keep", type=Path, help="Leave directories and logs here.")
    options = parser.parse_args(arguments)
    folder = options.keep or Path(tempfile.mkdtemp(prefix="swarm-namespaces-"))
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()

    def say(words: str) -> None:
        print(f"{time.monotonic() - began:5.0f} s  {words}", flush=True)

    try:
        bin_ = install(folder.resolve())
        with open_wires(MACHINES) as wires:
            story = Story(wires, bin_, folder.resolve(), say)
            try:
                story.run()
            finally:
                story.end()
    except (Failed, SwarmError) as failure:
        print(f"namespaces: {failure}", file=sys.stderr)
        return 1
    finally:
        if options.keep is None:
            shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
