"""`swarm --help` must answer at once, so it must not load what only the commands need."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import swarm

PACKAGE = Path(swarm.__file__).parent
HEAVY = {"torch", "numpy", "libp2p", "web3", "eth", "eth_account", "rich", "matplotlib", "trio"}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["testnet", "run", "--help"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from swarm.cli import main\n"
        f"main({arguments!r}, standalone_mode=False)\n"
        "print('LOADED', *sorted({name.split('.')[0] for name in sys.modules}))\n"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    loaded = set(shown.rsplit("LOADED", 1)[1].split())
    assert loaded & HEAVY == set()


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_no_module_can_unpickle() -> None:
    forbidden = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for path in PACKAGE.rglob("*.py"):
        found = {name.split(".")[0] for name in imports(path)} & forbidden
        assert not found, f"{path} imports {found}"


def test_no_module_uses_torch_load_or_save_or_numpy_pickles() -> None:
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) not in {("torch", "load"), ("torch", "save")}, (
                    f"{path}:{node.lineno}"
                )
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant), f"{path}:{node.lineno}"
                assert node.value.value is False, f"{path}:{node.lineno}"


def test_every_python_that_swarm_starts_leaves_the_working_directory_out_of_its_path() -> None:
    started = 0
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.List | ast.Tuple):
                words = [ast.unparse(element) for element in node.elts]
                if "sys.executable" in words:
                    started += 1
                    assert words[words.index("sys.executable") + 1] == "'-P'", f"{path}: {words}"
    assert started >= 4


@pytest.mark.parametrize("options", [[], ["-P"]])
def test_a_file_in_the_working_directory_is_not_taken_for_a_library(
    tmp_path: Path, options: list[str]
) -> None:
    for name in ("random", "click", "msgspec", "socket", "logging"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py was imported')\n")
    command = [sys.executable, *options, "-m", "swarm", "init", "mary", "--name", "mary"]
    done = subprocess.run(
        [*command, "--unattended"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mary" / "card.json").exists()
