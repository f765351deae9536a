"""What may be changed: Python by its syntax tree, Solidity by its tokens."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
_COMPARE = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in",
}  # fmt: skip
_BINARY = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "//", ast.FloorDiv: "*", ast.Mod: "//",
    ast.BitAnd: "|", ast.BitOr: "&", ast.BitXor: "|", ast.LShift: ">>", ast.RShift: "<<",
}  # fmt: skip
_SOLIDITY = {
    "<=": "<", ">=": ">", "<": "<=", ">": ">=", "==": "!=", "!=": "==", "&&": "||", "||": "&&",
    "&": "|", "|": "&", "+": "-", "-": "+", "|=": "=", "^=": "=", "&=": "=", "~": "",
    "true": "false", "false": "true",
}  # fmt: skip
_TOKEN = re.compile(
    r"(?P<skip>//[^\n]*|/\*.*?\*/|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|pragma[^;]*;|import[^;]*;)"
    r"|(?P<word>[A-Za-z_$][\w$]*)|(?P<number>0x[0-9a-fA-F_]+|\d[\d_]*)"
    r"|(?P<operator><<=|>>=|<<|>>|\+\+|--|=>|<=|>=|==|!=|&&|\|\||\+=|-=|\|=|\^=|&=|[<>&|+\-~!=^*/%])"
    r"|(?P<other>.)",
    re.DOTALL,
)
_STATEMENT = re.compile(
    r"^[ \t]*(?:if \([^\n]*\) revert [^;\n]*;|emit [^;\n]*;|revert [^;\n]*;|delete [^;\n]*;"
    r"|(?:\+\+|--)?[\w.\[\]()]+ (?:=|\|=|&=|\^=|\+=|-=) [^;{]*;|_\w+\([^;{]*\);)[ \t]*$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Mutant:
    """One change: `text[start:stop]` of a file becomes `new`."""

    file: str
    """Relative to the repository."""
    start: int
    stop: int
    new: str
    line: int
    before: str
    """The changed line as it was, and as it is, without indentation."""
    after: str

    @property
    def name(self) -> str:
        """The same for as long as its line is, wherever that stands: what an answer refers to."""
        return f"{Path(self.file).name}: {self.before} -> {self.after}"

    @property
    def key(self) -> str:
        """No other mutant of the same text has it."""
        return f"{self.file} {self.start}-{self.stop} {self.new}"

    def apply(self, text: str) -> str:
        return text[: self.start] + self.new + text[self.stop :]


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant: the test that found it, or what else did; None if it survived."""

    mutant: Mutant
    found_by: str | None
    seconds: float


def mutants_of(file: str) -> list[Mutant]:
    """All mutants of one file of the repository, in the order of their places."""
    text = (ROOT / file).read_text()
    changes = _python_changes(text) if file.endswith(".py") else _solidity_changes(text)
    return [_mutant(file, text, *change) for change in sorted(set(changes))]


def _mutant(file: str, text: str, start: int, stop: int, new: str) -> Mutant:
    begin = text.rfind("\n", 0, start) + 1
    end = text.find("\n", stop)
    end = len(text) if end < 0 else end
    before = " ".join(text[begin:end].split())
    after = " ".join((text[begin:start] + new + text[stop:end]).split())
    return Mutant(file, start, stop, new, text.count("\n", 0, start) + 1, before, after)


Change = tuple[int, int, str]


def _python_changes(text: str) -> Iterator[Change]:
    tree = ast.parse(text)
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line.encode()))
    raw = text.encode()

    def place(line: int | None, column: int | None) -> int:
        assert line is not None
        assert column is not None
        return len(raw[: starts[line - 1] + column].decode())

    def begin(node: ast.AST) -> int:
        return place(getattr(node, "lineno", None), getattr(node, "col_offset", None))

    def end(node: ast.AST) -> int:
        return place(getattr(node, "end_lineno", None), getattr(node, "end_col_offset", None))

    def between(left: ast.AST, right: ast.AST, new: str) -> Iterator[Change]:
        """The operator that stands between two operands, without brackets and blanks."""
        first, last = end(left), begin(right)
        found = re.search(r"[^\s()\\]+(?: +[a-z]+)?", re.sub(r"#[^\n]*", "", text[first:last]))
        if found and "#" not in text[first:last]:
            yield first + found.start(), first + found.end(), new

    for node in _walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            for left, operator, right in zip(sides, node.ops, sides[1:], strict=False):
                yield from between(left, right, _COMPARE[type(operator)])
        elif isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
            yield from between(node.left, node.right, _BINARY[type(node.op)])
        elif isinstance(node, ast.BoolOp):
            other = "or" if isinstance(node.op, ast.And) else "and"
            for left, right in zip(node.values, node.values[1:], strict=False):
                yield from between(left, right, other)
        elif isinstance(node, ast.AugAssign) and type(node.op) in _BINARY:
            yield from between(node.target, node.value, _BINARY[type(node.op)] + "=")
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.Invert):
            yield begin(node), begin(node.operand), ""
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield begin(node), end(node), str(not node.value)
        elif isinstance(node, ast.Constant) and isinstance(node.value, int):
            yield begin(node), end(node), str(node.value + 1)
        elif isinstance(node, ast.If | ast.IfExp):
            yield (
                begin(node.test),
                end(node.test),
                f"not ({text[begin(node.test) : end(node.test)]})",
            )
        if isinstance(node, ast.Assign | ast.AugAssign | ast.Raise | ast.Delete) or (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        ):
            yield begin(node), end(node), "pass"


def _walk(tree: ast.AST) -> Iterator[ast.AST]:
    """All that runs: no annotations, no docstrings, and no assignments that make module names."""
    for field, value in ast.iter_fields(tree):
        if field in ("annotation", "returns", "bases"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST):
                continue
            if not (isinstance(tree, ast.Module | ast.ClassDef) and isinstance(child, ast.Assign)):
                yield child
            yield from _walk(child)


def _solidity_changes(text: str) -> Iterator[Change]:
    code = list(text)
    for token in _TOKEN.finditer(text):
        if token["skip"]:
            for at in range(token.start(), token.end()):
                if code[at] != "\n":
                    code[at] = " "
        elif token["number"] and "_" not in token["number"] and "x" not in token["number"]:
            yield token.start(), token.end(), str(int(token["number"]) + 1)
        elif token[0] in _SOLIDITY:
            yield token.start(), token.end(), _SOLIDITY[token[0]]
    for found in _STATEMENT.finditer("".join(code)):
        start = found.start() + len(found[0]) - len(found[0].lstrip())
        yield start, found.end(), "{}"
