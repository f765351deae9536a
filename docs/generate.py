"""Write the parts of the documentation that the code knows best, so that they cannot go stale.

    python docs/generate.py          rewrite docs/cli.md, and every generated part in docs/*.md
    python docs/generate.py --check  fail if one of them is not what the code gives

A generated part stands between `<!-- generated: NAME -->` and `<!-- end -->`; NAME is a key of
`PARTS`. All comes from signatures, docstrings and syntax trees: no part needs a running node.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from enum import IntEnum, IntFlag
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import click

from swarm.box.description import Sandbox
from swarm.chain import messages, qbft, service
from swarm.chain.contract import artifact
from swarm.cli import main as swarm_command
from swarm.network import limits, wire
from swarm.node.home import config
from swarm.protocol import ledger, machine, masked_rounds, membership, state

DOCS = Path(__file__).parent
MARKED = re.compile(r"(<!-- generated: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table. Bars inside of cells are escaped."""
    lines = [headings, ["---"] * len(headings), *rows]
    cells = ([str(cell).replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines)
    return "".join("| " + " | ".join(line) + " |\n" for line in cells)


# What docstrings and syntax trees tell.


def class_of(module: ModuleType, name: str) -> ast.ClassDef:
    tree = ast.parse(inspect.getsource(module))
    found = (n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
    return next(found)


def attribute_docs(module: ModuleType, name: str) -> list[tuple[str, str, str, str]]:
    """(attribute, type, default, the string below it) for each annotated attribute of a class."""
    body = class_of(module, name).body
    rows = []
    for node, following in zip(body, [*body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign):
            continue
        doc = ""
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            doc = " ".join(str(following.value.value).split())
        default = "" if node.value is None else ast.unparse(node.value)
        rows.append((ast.unparse(node.target), ast.unparse(node.annotation), default, doc))
    return rows


def docstring_table(module: ModuleType) -> str:
    """The transition table that opens a module: columns under lines of dashes."""
    lines = inspect.cleandoc(module.__doc__ or "").splitlines()
    rule = next(i for i, line in enumerate(lines) if re.match(r"\s*-{5,}(\s+-{5,})+$", line))
    starts = [m.start() for m in re.finditer(r"-{5,}", lines[rule])]

    def cells(line: str) -> list[str]:
        ends = [*starts[1:], None]
        return [line[a:b].strip() for a, b in zip(starts, ends, strict=True)]

    rows = []
    for line in lines[rule + 1 :]:
        if not line.strip():
            break
        rows.append(cells(line))
    return table(cells(lines[rule - 1]), rows)


class _Plain(ast.NodeTransformer):
    """Types without their bounds: `Annotated[T, …]` is T."""

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        self.generic_visit(node)
        is_annotated = isinstance(node.value, ast.Name) and node.value.id == "Annotated"
        return node.slice.elts[0] if is_annotated and isinstance(node.slice, ast.Tuple) else node


def plain(annotation: str) -> str:
    return ast.unparse(_Plain().visit(ast.parse(annotation, mode="eval")))


def first_sentence(text: str | None) -> str:
    words = " ".join((text or "").split())
    return re.split(r"(?<=[.:?])\s(?=[A-Z`])", words, maxsplit=1)[0]


# The contract.


def transactions() -> str:
    """Each transaction, who may send it, and every typed error that it may end in."""
    parts = ((ledger, "Ledger"), (membership, "Membership"), (masked_rounds, "MaskedRounds"))
    methods = {
        node.name: node
        for module, name in parts
        for node in class_of(module, name).body
        if isinstance(node, ast.FunctionDef)
    }
    checks = {
        node.name: node
        for node in ast.parse(inspect.getsource(membership)).body
        if isinstance(node, ast.FunctionDef)
    }
    signers = {"governor": "account", "operator": "node", "either": "account or node"}

    def reached(name: str, seen: set[str]) -> set[str]:
        """All methods that `name` calls, directly or not, on itself or on the other parts."""
        seen.add(name)
        for node in ast.walk(methods[name]):
            is_own = isinstance(node, ast.Attribute) and ast.unparse(node.value) in (
                "self",
                "self.membership",
            )
            if is_own and node.attr in methods.keys() - seen:
                reached(node.attr, seen)
        return seen

    def refusals(names: Iterable[str], of: dict[str, ast.FunctionDef]) -> Iterable[str]:
        for call in (n for name in names for n in ast.walk(of[name]) if isinstance(n, ast.Call)):
            called = ast.unparse(call.func)
            if called == "ContractError" and isinstance(call.args[0], ast.Constant):
                yield str(call.args[0].value)
            elif called in checks:
                yield from refusals([called], checks)
                yield from (str(a.value) for a in call.args if isinstance(a, ast.Constant))

    rows = []
    for name, method in methods.items():
        is_transaction = "now" in [a.arg for a in method.args.args[:3]]
        if name.startswith("_") or name == "transact" or not is_transaction:
            continue
        if method.args.args[1].arg != "sender":
            continue
        names = reached(name, set())
        by = " / ".join(signers[n] for n in signers if n in names)
        errors = ", ".join(f"`{e}`" for e in sorted(set(refusals(names, methods))))
        rows.append((f"`{camel(name)}`", by, first_sentence(ast.get_docstring(method)), errors))
    known = {entry["name"] for entry in abi("function")}
    unknown = [name for name, *_ in rows if name.strip("`") not in known]
    if unknown:
        sys.exit(f"the contract has no {', '.join(unknown)}: the specification and the ABI differ")
    return table(("transaction", "signed by", "what it does", "refused with"), rows)


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def abi(kind: str) -> list[dict[str, Any]]:
    return [entry for entry in artifact().abi if entry["type"] == kind]


def _signatures(kind: str) -> str:
    def arguments(entry: dict[str, Any]) -> str:
        return ", ".join(f"{i['type']} {i['name']}" for i in entry["inputs"])

    entries = sorted(abi(kind), key=lambda entry: str(entry["name"]))
    return table((kind, "arguments"), ((f"`{e['name']}`", arguments(e)) for e in entries))


def contract_events() -> str:
    return _signatures("event")


def contract_errors() -> str:
    return _signatures("error")


def rules() -> str:
    rows = attribute_docs(state, "Rules")
    return table(
        ("rule", "default", "meaning"),
        ((f"`{n}`", default.rpartition(".")[2], doc) for n, _, default, doc in rows),
    )


def codes() -> str:
    """The numbers that stand for words on the chain."""
    kinds: Sequence[type[IntEnum | IntFlag]] = (
        state.PlanStatus,
        state.RoundStatus,
        state.VerifyLevel,
        state.Duty,
        state.Omission,
        membership.Kind,
        membership.ProposalStatus,
    )
    rows = ((f"`{k.__name__}`", ", ".join(f"{v.value} {v.name}" for v in k)) for k in kinds)
    return table(("what", "numbers"), rows)


def constants() -> str:
    values = {
        "members, at most": state.MAX_MEMBERS,
        "validators, at most": membership.MAX_VALIDATORS,
        "seconds until a silent validator may be retired": membership.DORMANT_S,
        "seconds that a membership proposal stays open": membership.PROPOSAL_LIFETIME_S,
        "membership proposals, and plans, of one member and day": membership.MAX_A_DAY,
        "open plans of one proposer": ledger.MAX_OPEN_PLANS,
        "bytes of a contact, at most": membership.MAX_CONTACT_BYTES,
        "seconds between two contacts of a member": membership.CONTACT_EVERY_S,
        "seconds that the invited have to decide, by default": ledger.DEFAULT_INVITATION_S,
        "the same, at most": ledger.LONGEST_INVITATION_S,
        "samples of one site, at most": state.MOST_SAMPLES,
        "first consensus round, seconds": qbft.ROUND_S,
        "longest consensus round, seconds": qbft.LONGEST_ROUND_S,
        "votes are sent again every, seconds": qbft.RESEND_S,
        "a block's time may differ from a validator's clock by, seconds": qbft.CLOCK_TOLERANCE_S,
        "a transaction waits for others to share its block, seconds": service.GATHER_S,
        "the same, while a round is known to await more, seconds": service.LONGEST_GATHER_S,
        "the proposer changes every, blocks": qbft.ROTATION,
        "each next member waits with what anyone may send, seconds": machine.STAGGER_S,
    }
    return table(("constant", "value"), values.items())


# The wire, and the configuration.


def _messages(module: ModuleType, names: Sequence[str]) -> str:
    rows = []
    for name in names:
        fields = ", ".join(f"{f}: {plain(kind)}" for f, kind, _, _ in attribute_docs(module, name))
        doc = first_sentence(ast.get_docstring(class_of(module, name)))
        rows.append((f"`{name}`", f"`{fields}`" if fields else "", doc))
    return table(("message", "fields, in this order", "meaning"), rows)


def control_messages() -> str:
    return _messages(
        wire, ("Message", "Request", "Response", "BulkWanted", "BulkGrant", "ChunksWanted")
    )


def consensus_messages() -> str:
    names = [kind.__name__ for kind in messages.AnyMessage.__args__]
    return _messages(messages, [*names, "Certificate", "CertifiedBlock"])


def network_limits() -> str:
    rows = attribute_docs(limits, "NetworkLimits")
    return table(("limit", "default", "meaning"), ((f"`{n}`", d, doc) for n, _, d, doc in rows))


def node_toml() -> str:
    """Every key of `node.toml`, with its default."""
    words = {
        "str | None": "text",
        "str": "text",
        "Name": "text",
        "bool": "true or false",
        "Positive": "whole number from 1",
        "Positive | None": "whole number from 1",
        "MegabitsPerS | None": "number above 0",
        "AboveZero | None": "number above 0",
        "tuple[str, ...]": "list of texts",
        "tuple[str, ...] | None": "list of texts",
        "tuple[ModuleName, ...] | None": "list of texts",
        "Sandbox": " or ".join(map(repr, get_args(Sandbox))),
    }

    def kind(annotation: str) -> str:
        if annotation.startswith("Literal"):
            return annotation.removeprefix("Literal[").removesuffix("]").replace("', '", "' or '")
        if annotation.startswith("dict"):
            return "table"
        if annotation.startswith("Annotated["):
            is_whole = annotation.startswith("Annotated[int,")
            return "whole number" if is_whole else "number above 0"
        return words[annotation]

    rows = []
    for section, annotation, default, doc in attribute_docs(config, "NodeConfig"):
        if annotation == "Name":
            rows.append((f"`{section}`", "text", "", "As on the join card."))
            continue
        for key, inner, value, note in attribute_docs(config, annotation):
            value = value.lower() if inner == "bool" else value  # as TOML writes it
            shown = "" if value in ("None", "{}") else f"`{value.replace(chr(39), chr(34))}`"
            rows.append((f"`{section}.{key}`", kind(inner), shown, note))
        del default, doc
    return table(("key", "value", "default", "meaning"), rows)


# The command line.


def cli_page() -> str:
    """All commands with their help, as the program itself gives it."""
    parts = [
        "# The command line\n\nWritten by `docs/generate.py` from the commands themselves. Every "
        "command ends with exit\nstatus 0, or with one sentence that says what went wrong and what "
        "to do: status 2 for what\nyou can mend, 1 for the rest.\n"
    ]
    context = click.Context(swarm_command, info_name="swarm")
    for name in swarm_command.list_commands(context):
        command = swarm_command.get_command(context, name)
        assert command is not None
        parts += _command_parts(command, f"swarm {name}", "##")
    return "\n".join(parts)


def _command_parts(command: click.Command, path: str, level: str) -> list[str]:
    parts = [f"{level} {path}\n", _help_text(command.help or "")]
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            parts += _command_parts(inner, f"{path} {name}", level + "#")
        return parts
    context = click.Context(command, info_name=path)
    parts.insert(1, f"```text\n{command.get_usage(context).removeprefix('Usage: ')}\n```\n")
    rows = [row for p in command.params if (row := _option_row(p, context))]
    if rows:
        parts.append(table(("option", "meaning", "default"), rows))
    return parts


def _help_text(text: str) -> str:
    """Paragraphs; those that click must not wrap are examples."""
    blocks = []
    for block in inspect.cleandoc(text).split("\n\n"):
        if block.startswith("\b"):
            example = textwrap.dedent(block.removeprefix("\b").strip("\n"))
            prompted = re.sub("^(?=swarm|python)", "$ ", example, flags=re.M)
            blocks.append(f"```console\n{prompted}\n```")
        else:
            blocks.append(textwrap.fill(" ".join(block.split()), 100))
    return "\n\n".join(blocks) + "\n"


def _option_row(parameter: click.Parameter, context: click.Context) -> tuple[str, str, str] | None:
    if not isinstance(parameter, click.Option):
        return None
    value = "" if parameter.is_flag else f" {parameter.make_metavar(context)}"
    shown = parameter.show_default
    default = shown if isinstance(shown, str) else ""
    if shown is True and parameter.default is not None:
        default = f"`{parameter.default}`"
    meaning = (parameter.help or "") + (" Required." if parameter.required else "")
    return f"`{', '.join(parameter.opts)}{value}`", meaning.strip(), default


PARTS: dict[str, Callable[[], str]] = {
    "round-machine": lambda: docstring_table(machine),
    "qbft": lambda: docstring_table(qbft),
    "transactions": transactions,
    "contract-events": contract_events,
    "contract-errors": contract_errors,
    "rules": rules,
    "codes": codes,
    "constants": constants,
    "control-messages": control_messages,
    "consensus-messages": consensus_messages,
    "network-limits": network_limits,
    "node-toml": node_toml,
}


def pages() -> dict[Path, str]:
    """Every page with something generated in it → what it should say."""
    wanted = {DOCS / "cli.md": cli_page()}
    for path in sorted(DOCS.glob("*.md")):
        text = path.read_text()
        if path not in wanted and MARKED.search(text):
            wanted[path] = MARKED.sub(lambda m: m[1] + PARTS[m[2]]() + m[3], text)
    return wanted


def main() -> None:
    stale = []
    for path, text in pages().items():
        if not path.exists() or path.read_text() != text:
            stale.append(path.name)
            if "--check" not in sys.argv[1:]:
                path.write_text(text)
    if stale and "--check" in sys.argv[1:]:
        sys.exit(f"not what the code gives: {', '.join(stale)}: run `python docs/generate.py`")
    print(f"written: {', '.join(stale)}" if stale else "docs are fresh")


if __name__ == "__main__":
    main()
