"""Install swarm as the README says where no compiler is, and run its first example.

For each Python that is named: a new virtual environment, `pip install .` with a PATH that holds no
compiler, no wheel that an earlier build left in pip's cache, then `swarm testnet run
examples/heart` twice. All models must have one digest; which, depends on the processor.

    python -m tests.campaigns install python3.11 python3.12 python3.13
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAMS = ("sh", "env")
"""All that pip finds on its PATH, beside the environment's own."""
COMPILERS = ("cc", "gcc", "c++", "g++", "clang", "rustc", "cargo")
INSTALL_S, RUN_S = 1800, 900


class Failed(Exception):
    """A step did not do what it must; the words say which."""


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0 if every Python installed swarm and trained the example."""
    parser = argparse.ArgumentParser(prog="install", description=__doc__.split("\n\n")[0])
    parser.add_argument("pythons", nargs="*", default=[sys.executable], metavar="PYTHON")
    parser.add_argument("--torch", default="torch==2.13.0", help="Installed first.")
    options = parser.parse_args(arguments)
    failures = 0
    trained: set[str] = set()
    for python in options.pythons:
        began = time.monotonic()
        try:
            version, built, digests = try_python(python, options.torch)
            trained |= digests
            if len(trained) > 1:
                raise Failed(f"examples/heart ends with different models: {sorted(trained)}")
        except Failed as failure:
            failures += 1
            print(f"{python}: {failure}", file=sys.stderr)
        else:
            seconds = time.monotonic() - began
            print(
                f"{version}: installed and trained in {seconds:.0f} s; built from source: {built}",
                flush=True,
            )
    return 1 if failures else 0


def try_python(python: str, torch: str) -> tuple[str, str, set[str]]:
    """Python's version, the packages of which pip found no wheel, and the digests of the models of
    two runs of the example. Raises Failed."""
    with tempfile.TemporaryDirectory(prefix="swarm-install-") as folder:
        work = Path(folder)
        environment = bare_environment(work)
        run([python, "-m", "venv", str(work / "venv")], dict(os.environ), 120)
        bin_ = work / "venv" / "bin"
        pip = [str(bin_ / "python"), "-m", "pip", "install", "--no-cache-dir"]
        run([*pip, torch], environment, INSTALL_S)
        said = run([*pip, str(ROOT)], environment, INSTALL_S)
        run([str(bin_ / "python"), "-m", "pip", "check"], environment, 120)
        built = [x.removeprefix("Successfully built ") for x in said if "Successfully built" in x]
        swarm = [str(bin_ / "swarm"), "testnet", "run", str(ROOT / "examples" / "heart")]
        digests = {model_of(run(swarm, environment, RUN_S, work)) for _ in range(2)}
        version = run([str(bin_ / "python"), "--version"], environment, 60)[0]
        return version, "; ".join(built), digests


def model_of(shown: Sequence[str]) -> str:
    """The digest of the model that a run ended with, from what it printed. Raises Failed."""
    for line in shown:
        match line.split():
            case ["digest", digest]:
                return digest
    raise Failed(f"the run of examples/heart names no model: {list(shown[-6:])}")


def bare_environment(work: Path) -> dict[str, str]:
    """The environment of a machine without a compiler. Raises Failed if one is found after all."""
    programs = work / "programs"
    programs.mkdir()
    for name in PROGRAMS:
        (programs / name).symlink_to(str(shutil.which(name)))
    path = os.pathsep.join([str(work / "venv" / "bin"), str(programs)])
    found = [name for name in COMPILERS if shutil.which(name, path=path)]
    if found:
        raise Failed(f"the PATH {path} holds {found}")
    kept = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    none = str(programs / "none")  # distutils and setuptools ask these before the PATH
    return kept | {"PATH": path, "HOME": str(work), "CC": none, "CXX": none}


def run(
    command: Sequence[str], environment: dict[str, str], within_s: float, cwd: Path | None = None
) -> list[str]:
    """The lines that the command prints. Raises Failed if it fails or takes too long."""
    words = " ".join(command)
    try:
        done = subprocess.run(
            command, env=environment, cwd=cwd, timeout=within_s, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Failed(f"{words} has not ended within {within_s:.0f} s") from None
    except OSError as error:
        raise Failed(f"{words}: {error}") from None
    if done.returncode != 0:
        raise Failed(f"{words} ended with {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout.splitlines()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
