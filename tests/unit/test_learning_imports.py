"""What a plan's code imports: as its source says, and as it tries while it runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from swarm.errors import PlanError
from swarm.learning.code.bundle import Bundle
from swarm.learning.code.import_reader import Import, imports_of, is_allowed, read_imports


def found(**files: str) -> list[Import]:
    named = {name.replace("__", "/") + ".py": text.encode() for name, text in files.items()}
    return imports_of(named)


def test_imports_are_found_wherever_they_stand_and_the_plans_own_are_not_among_them() -> None:
    plan = (
        "import torch.nn as nn, math\n"
        "from numpy import linalg, array\n"
        "import features\n"
        "from nets.small import Net\n"
        "from . import near\n"
        "def data(self):\n"
        "    if True: import socket\n"
        "    from os import *\n"
    )
    assert found(plan=plan, features="import json\n", nets__small="") == [
        Import("json", "features.py", 1),
        Import("torch.nn", "plan.py", 1),
        Import("math", "plan.py", 1),
        Import("numpy", "plan.py", 2, ("linalg", "array")),
        Import("socket", "plan.py", 7),
        Import("os", "plan.py", 8),
    ]


def test_a_file_named_like_a_module_of_pythons_library_is_not_the_plans_own() -> None:
    assert found(plan="import socket\n", socket="") == [Import("socket", "plan.py", 1)]


def test_all_that_is_taken_out_of_a_module_may_be_allowed_instead_of_the_module() -> None:
    assert is_allowed("torch", ("nn",), ["torch.nn"])
    assert not is_allowed("torch", ("nn", "os"), ["torch.nn"])
    assert not is_allowed("torch", (), ["torch.nn"])
    assert not is_allowed("torchvision", (), ["torch"])


@pytest.mark.parametrize("text", ["import (", "x = '\\N{nothing}'", "def f(:\n"])
def test_what_is_no_python_is_named_with_its_place(text: str) -> None:
    with pytest.raises(PlanError, match=r"plan\.py:1 is no Python"):
        read_imports(Bundle({"plan.py": text.encode()}))


@pytest.mark.parametrize(
    "text",
    ["(" * 5000 + ")" * 5000, "1" + "+1" * 300_000, "-" * 100_000 + "1", "a" + ".a" * 200_000],
    ids=["brackets", "sum", "signs", "attributes"],
)
def test_source_that_overruns_a_parser_ends_no_process_but_its_reader(text: str) -> None:
    with pytest.raises(PlanError, match=r"nested|parsed|Python"):
        read_imports(Bundle({"plan.py": f"x = {text}\n".encode()}))


# While it runs.

ALLOWED = ("math", "swarm.learning.metrics")
DRIVER = """
import importlib, sys
from pathlib import Path
from swarm.errors import SwarmError
from swarm.learning.code.import_guard import guard_imports
from swarm.learning.code.importer import import_file, use_modules_of

folder = Path(sys.argv[1])
files = {file.name: file.read_bytes() for file in folder.glob("*.py")}
use_modules_of(folder, files)
guard_imports(folder, sys.argv[2].split(","))
try:
    import_file("plan", folder / "plan.py", files["plan.py"])
except SwarmError as error:
    print(f"{type(error).__name__}: {error}")
else:
    print("ran")
"""


def run(folder: Path, code: str, **others: str) -> str:
    folder.mkdir(exist_ok=True)
    for name, text in {"plan": code, **others}.items():
        (folder / f"{name}.py").write_text(text)
    arguments = [sys.executable, "-c", DRIVER, str(folder), ",".join(ALLOWED)]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    "code",
    [
        "import socket",
        "__import__('soc' + 'ket')",
        "exec('import socket')",
        "eval(\"__import__('socket')\")",
        "import math; (lambda: __import__('sys'))()",
        "def f():\n    import os.path\nf()",
        "from swarm import errors",
        "import importlib; importlib.import_module('socket')",
        "import helper\nhelper.go()",
    ],
)
def test_an_import_that_source_hides_is_met_while_it_runs(tmp_path: Path, code: str) -> None:
    said = run(tmp_path / "plan", code, helper="def go():\n    import socket\n")
    assert said.startswith("PlanError: the plan imports '")
    assert "this site's policy allows math, swarm.learning.metrics" in said


@pytest.mark.parametrize(
    "code",
    [
        "import math",
        "from __future__ import annotations\nimport math as m",
        "from swarm.learning import metrics",
        "from swarm.learning.metrics import auc",
        "import helper\nassert helper.two == 2",
        "from helper import two",
    ],
)
def test_what_is_allowed_and_the_plans_own_modules_are_imported(tmp_path: Path, code: str) -> None:
    assert run(tmp_path / "plan", code, helper="two = 2") == "ran"


def test_a_module_of_pythons_is_not_to_be_had_by_a_file_of_the_same_name(tmp_path: Path) -> None:
    said = run(tmp_path / "plan", "import socket", socket="x = 1")
    assert said.startswith("PlanError: the plan imports 'socket'")
