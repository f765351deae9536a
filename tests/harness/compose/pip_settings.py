"""The settings of this machine's pip, for the pip inside of an image that is being built.

An image is built with nothing of the machine in it, so a pip that finds its packages through a
mirror or a folder of wheels would not find them there.
"""

from __future__ import annotations

import ast
import configparser
import sys
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import unquote, urlparse

from harness.compose.shell import run

LEFT_OUT = {"timeout", "default-timeout", "disable-pip-version-check", "require-virtualenv"}


def read_settings() -> dict[str, str]:
    """pip's options by name, from its files and its environment variables; the latter go first."""
    settings: dict[str, str] = {}
    lines = run([sys.executable, "-m", "pip", "config", "list"], 60).splitlines()
    # ":env:" sorts before "global", and is what pip would obey.
    for name, _, value in (line.partition("=") for line in sorted(lines, reverse=True)):
        option = name.rpartition(".")[2]
        if value and option not in LEFT_OUT:
            settings[option] = str(ast.literal_eval(value))
    return settings


def write_settings(settings: dict[str, str], file: Path) -> None:
    """Write a pip.conf."""
    parser = configparser.RawConfigParser()
    parser["global"] = settings
    with file.open("w") as out:
        parser.write(out)


def places(settings: dict[str, str]) -> list[Path]:
    """The files and folders of this machine that the settings name."""
    words = [word for value in settings.values() for word in value.split()]
    return sorted({place for word in words for place in _place(word)})


def _place(word: str) -> Iterable[Path]:
    if word.startswith("file:"):
        # An index on disk links to files that lie beside it.
        yield Path(unquote(urlparse(word).path)).parent
    elif word.startswith("/") and Path(word).exists():
        yield Path(word)
