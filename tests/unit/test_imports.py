"""How modules hang together: no circles, and in `swarm.rounds` parts that are put together, neither
inherited from nor reached through. (Which package may import which: import-linter, pyproject.toml.)
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import harness

import swarm
import swarm.errors

PACKAGES = (Path(swarm.__file__).parent, Path(harness.__file__).parent)
CONTRACTS = Path(__file__).parents[2] / "contracts"
ROUNDS = PACKAGES[0] / "rounds"
MAY_BE_INHERITED = {"Protocol", "Exception"}
Graph = Mapping[str, set[str]]


def modules(package: Path) -> dict[str, ast.Module]:
    """Every module of a package by its full name."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = ast.parse(path.read_text())
    return found


def imports(trees: Mapping[str, ast.Module]) -> Graph:
    """Which of these modules names which, wherever it does: for a type, or inside a function."""
    graph: dict[str, set[str]] = {name: set() for name in trees}
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module is not None:
                submodules = {f"{node.module}.{alias.name}" for alias in node.names}
                graph[name] |= submodules & trees.keys() or {node.module}
        graph[name] &= trees.keys() - {name}
    return graph


def circles(graph: Graph) -> list[set[str]]:
    """Sets of modules each of which leads to all others of its set."""
    reached = {name: _reached_from(name, graph) for name in graph}
    found: list[set[str]] = []
    for name in graph:
        circle = {other for other in reached[name] if name in reached[other]}
        if circle and circle not in found:
            found.append(circle)
    return found


def _reached_from(name: str, graph: Graph) -> set[str]:
    seen: set[str] = set()
    waiting = list(graph[name])
    while waiting:
        one = waiting.pop()
        if one not in seen:
            seen.add(one)
            waiting += graph[one]
    return seen


def test_no_modules_import_each_other_in_a_circle() -> None:
    trees = {name: tree for package in PACKAGES for name, tree in modules(package).items()}
    assert len(trees) > 150
    assert circles(imports(trees)) == []


def test_no_contracts_import_each_other_in_a_circle() -> None:
    """A contract must compile alone, as the trials of mutants compile it: in a circle, Solidity's
    order of definitions depends on which one is asked for."""
    texts = {path.name: path.read_text() for path in CONTRACTS.glob("*.sol")}
    graph = {name: set(re.findall(r'from "\./(\w+\.sol)"', text)) for name, text in texts.items()}
    assert sum(map(len, graph.values())) > 30
    assert circles(graph) == []


def test_a_circle_is_found_though_an_import_is_only_for_a_type() -> None:
    texts = {
        "p.a": "from p.b import B",
        "p.b": "if TYPE_CHECKING:\n    from p import c",
        "p.c": "def f():\n    import p.a",
        "p.d": "from p.a import A",
    }
    graph = imports({name: ast.parse(text) for name, text in texts.items()})
    assert circles(graph) == [{"p.a", "p.b", "p.c"}]


def classes(trees: Mapping[str, ast.Module]) -> Iterator[ast.ClassDef]:
    for tree in trees.values():
        yield from (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def bases(trees: Mapping[str, ast.Module]) -> set[str]:
    """What classes inherit from, but protocols and errors."""
    found = list(classes(trees))
    protocols = {c.name for c in found if "Protocol" in map(ast.unparse, c.bases)}
    inherited = {ast.unparse(base) for c in found for base in c.bases}
    errors = {name for name in dir(swarm.errors) if name[0].isupper()}
    return inherited - protocols - errors - MAY_BE_INHERITED


def test_no_part_of_the_rounds_inherits_from_another() -> None:
    assert bases(modules(ROUNDS)) == set()


def test_the_scan_tells_a_helper_that_is_inherited_from_an_error_and_a_protocol() -> None:
    text = """
class Chain(Protocol): ...
class Wider(Chain, Protocol): ...
class Over(RemoteError): ...
class Work(Settling): ...
"""
    assert bases({"p": ast.parse(text)}) == {"Settling"}


def parts(trees: Mapping[str, ast.Module]) -> set[str]:
    """The fields in which an object keeps another that works for it: the names of those that are
    annotated with a class of these modules, or an adapter's."""
    own = {c.name for c in classes(trees)} - {
        "RoundRecord",
        "Meters",
        "Job",
        "Incoming",
        "Patience",
        "Purpose",
    }
    workers = own | {"BlobStore", "BlobSource", "Trainer", "RoundMachine"}
    return {
        field.target.id
        for c in classes(trees)
        for field in c.body
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and ast.unparse(field.annotation).removeprefix("m.") in workers
    }


def reaches(trees: Mapping[str, ast.Module], names: set[str]) -> list[str]:
    """Where a part is taken out of something that is not `self` or a module."""
    return [
        f"{module}:{node.lineno}: {ast.unparse(node)}"
        for module, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr in names
        and not (isinstance(node.value, ast.Name) and node.value.id == "self")
    ]


def test_nobody_reaches_through_one_part_of_the_rounds_for_another() -> None:
    names = parts(modules(ROUNDS))
    assert {"store", "trainer", "exchange", "collection", "records", "machine"} <= names
    assert reaches(modules(ROUNDS), names) == []


def test_the_node_reaches_through_no_participation_for_its_parts() -> None:
    names = parts(modules(ROUNDS)) - {"chain", "exchange", "secrets", "store", "trainer"}  # its own
    own = {"training"}  # of its configuration
    assert reaches(modules(PACKAGES[0] / "node"), names - own) == []


def test_the_scan_finds_who_reaches_through() -> None:
    text = (
        "class A:\n    store: BlobStore\n    def f(self):\n        self.work.store.add(self.store)"
    )
    trees = {"p": ast.parse(text)}
    assert reaches(trees, parts(trees)) == ["p:4: self.work.store"]
