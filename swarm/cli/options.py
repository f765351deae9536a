"""Options that several commands share, and how they print."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from swarm.errors import Interrupted
from swarm.visible import visible, visible_in, visible_json

F = TypeVar("F", bound=Callable[..., Any])

WIDEST_TABLE = 1000
"""Characters; the terminal wraps what it has no room for."""

DIRECTORY = click.Path(file_okay=False, path_type=Path)
FILE_WIDTH = 250
FILE = click.Path(dir_okay=False, path_type=Path)
NUMBER = click.IntRange(0, 2**63 - 1)
"""Of a plan, a proposal or a round, as people type it."""


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def read_duration(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> int | None:
    """An option's callback: the seconds of a time span such as 90s, 30m, 12h or 7d."""
    if text is None:
        return None
    number, unit = text[:-1], text[-1:]
    if not (number.isascii() and number.isdigit() and unit in _UNITS and int(number) > 0):
        raise click.BadParameter(f"{text!r} is no time span: write 90s, 30m, 12h or 7d")
    return int(number) * _UNITS[unit]


def at_time(timestamp: int) -> str:
    """A moment for people, in UTC."""
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d %H:%M UTC")


def node_option(function: F) -> F:
    """`--node DIR`: whose running node is asked."""
    return click.option(
        "--node",
        "node",
        type=DIRECTORY,
        default=Path("."),
        envvar="SWARM_NODE",
        show_default="this directory, or SWARM_NODE",
        help="The node's directory.",
    )(function)


def json_option(function: F) -> F:
    """`--json`: the answer for programs."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(
        function
    )


def ask_node(node: Path, method: str, /, **arguments: Any) -> Any:
    """Ask the node that runs in the directory `node`; raises its error as it raised it."""
    from swarm.node.commands.control import ask

    return ask(node, method, **arguments)


@contextmanager
def goes_on(then: str) -> Iterator[None]:
    """Around a request that changes something. Ctrl-C ends the command, but not what the node has
    begun: raises Interrupted, which says so, and `then`: how to see it and how to undo it."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted, but the node may still carry it out within some minutes: {then}"
        ) from None


def account_options(function: F) -> F:
    """`--account FILE`: the key that decides, where that is another than the node's."""
    function = click.option(
        "--account-password-file",
        type=FILE,
        help="What opens the account's key; otherwise it is asked for.",
    )(function)
    return click.option(
        "--account",
        type=FILE,
        help="The key of this institution's account (a keystore file), where the node's is "
        "another. It stays in this command.",
    )(function)


def open_account(account: Path | None, password_file: Path | None) -> bytes | None:
    """The key that `--account` names, opened; None without the option."""
    from swarm.node.home.keys import load_key, read_password

    if account is None:
        return None
    if password_file is not None:
        return load_key(account, read_password(password_file))
    if not sys.stdin.isatty():
        raise click.UsageError(
            "nobody is here to type the account's password: give --account-password-file FILE"
        )
    return load_key(account, str(click.prompt("Password of the account's key", hide_input=True)))


def ask_governor(node: Path, account: bytes | None, method: str, /, **arguments: Any) -> Any:
    """Have an institution's account decide: by its own key, or by the node's if that is its own."""
    if account is None:
        return ask_node(node, method, **arguments)
    from swarm.node.commands.account import ask_as

    return ask_as(node, account, method, **arguments)


def for_people(answer: Any) -> Any:
    """A node's answer as it is printed: names in it are others', and must not hide anything."""
    return visible_in(answer)


def typed_password(directory: Path) -> str | None:
    """The password of the node's key from the terminal, if nothing else gives it."""
    from swarm.node.home.config import load_config
    from swarm.node.home.password import PASSWORD_VARIABLE

    wants_password = load_config(directory).key.password_file is None
    if wants_password and PASSWORD_VARIABLE not in os.environ and sys.stdin.isatty():
        return str(click.prompt("Password of the key", hide_input=True))
    return None


def typed_new_password(question: str, otherwise: str) -> str:
    """A new password from the terminal, typed twice; `otherwise` is the option that gives one."""
    if not sys.stdin.isatty():
        raise click.UsageError(f"nobody is here to type a password: give {otherwise}")
    return str(click.prompt(question, hide_input=True, confirmation_prompt=True))


@contextmanager
def signals_end_it() -> Iterator[None]:
    """SIGTERM and SIGHUP end a command as Ctrl-C does: with its nodes.

    A signal that whoever called us ignores, as `nohup` does SIGHUP, stays ignored.
    """

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = {n: h for n in numbers if (h := signal.getsignal(n)) is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def print_json(value: object) -> None:
    click.echo(visible_json(msgspec.json.format(msgspec.json.encode(value), indent=2).decode()))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A plain table for people, as wide as it needs to be: addresses are there to be copied."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(Text(visible(heading)), no_wrap=True)
    for row in rows:
        # As Text: a name may hold what rich takes for markup.
        table.add_row(*(Text("" if cell is None else visible(cell)) for cell in row))
    Console(highlight=False, soft_wrap=True, width=WIDEST_TABLE).print(table)


def short(digest: str | None, characters: int = 10) -> str:
    """The beginning of a digest, enough for people to compare."""
    return "" if not digest else digest[: characters + 2]
