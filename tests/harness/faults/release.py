"""A newer release of swarm, for nodes that are upgraded while a run goes on: this one, copied, with
another number, and with a greeting that says something more."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import swarm

NEWER = "99.0.0"
GREETING = "    you_cannot_be_dialled: bool = False\n"
SAYS_MORE = '    of_a_later_release: str = "what this release does not know"\n'


def write_release(folder: Path) -> Mapping[str, str]:
    """Install it in `folder`; what a process's environment must have for it to be the one that is
    imported."""
    code = folder / "swarm"
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(swarm.__file__).parent, code, ignore=skip)
    _change(
        code / "__init__.py", f'__version__ = "{swarm.__version__}"', f'__version__ = "{NEWER}"'
    )
    _change(code / "node" / "members" / "greetings.py", GREETING, GREETING + SAYS_MORE)
    told = folder / f"swarm-{NEWER}.dist-info"
    told.mkdir()
    (told / "METADATA").write_text(f"Metadata-Version: 2.1\nName: swarm\nVersion: {NEWER}\n")
    before = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(folder), *([before] if before else [])])}


def _change(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    if text.count(old) != 1:
        raise ValueError(f"{file} has no {old!r}, or several")
    file.write_text(text.replace(old, new))
