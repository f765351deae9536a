"""`swarm doctor`: what is wrong here, and the command that mends it."""

from __future__ import annotations

from pathlib import Path

import click

from swarm.cli.options import DIRECTORY, for_people, json_option, print_json, print_table


@click.command("doctor")
@click.argument("directory", type=DIRECTORY, envvar="SWARM_NODE", default=Path("."))
@json_option
def command(directory: Path, as_json: bool) -> None:
    """Look at the node in DIRECTORY and its machine: ports, clock, disk, GPU, data, members, chain,
    plans, versions. Each finding has its fix.

    The exit status is 1 if something is wrong, also where the node is stopped.

    \b
    swarm doctor hospital
    swarm doctor hospital --json
    """
    from msgspec import to_builtins

    from swarm.node.doctor import examine

    checks = examine(directory)
    if as_json:
        print_json(to_builtins(checks))
    else:
        rows = for_people(to_builtins(checks))
        found = [(row["name"], row["result"], row["found"]) for row in rows]
        print_table(("check", "result", "found"), found)
        for row in rows:
            if row["fix"]:
                click.echo(f"{row['name']}: {row['fix']}")
    if any(check.result == "wrong" for check in checks):
        click.get_current_context().exit(1)
