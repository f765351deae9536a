"""`swarm testnet`: a whole consortium on this machine, to see it work and to try things out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from swarm.cli.options import (
    DIRECTORY,
    FILE,
    F,
    json_option,
    print_json,
    print_table,
    signals_end_it,
)

PLAN = click.Path(exists=True, path_type=Path)
DEFAULT_DIRECTORY = Path("runs/testnet")

directory_option = click.option(
    "--dir",
    "directory",
    type=DIRECTORY,
    default=DEFAULT_DIRECTORY,
    show_default=True,
    help="Where the testnet's nodes live.",
)


def run_options(function: F) -> F:
    """What decides a run: how many nodes, how many rounds, which seed."""
    options = (
        click.option(
            "--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True,
            help="Decides the initial model, and how rows are split.",
        ),
        click.option(
            "--rounds", type=click.IntRange(1), help="Instead of the plan's own number."
        ),
        click.option(
            "--peers", type=click.IntRange(2, 256), help="How many nodes; one a site by default."
        ),
    )  # fmt: skip
    for option in options:
        function = option(function)
    return function


def _check_writable(out: Path, report_file: Path | None) -> None:
    """Find out now, not after the run, whether its results can be written."""
    from swarm.errors import ConfigurationError

    for folder in (out, *([] if report_file is None else [report_file.parent])):
        there = next(f for f in (folder, *folder.absolute().parents) if f.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise ConfigurationError(f"{folder} cannot be written: {there} does not allow it")


@click.group("testnet")
def command() -> None:
    """A whole consortium on this machine: one real node process for each site."""


@command.command()
@click.argument("plan", type=PLAN)
@run_options
@click.option("--keep", type=DIRECTORY, help="Keep the nodes' directories here.")
@click.option(
    "--out", type=DIRECTORY, help="Where model and plot go; runs/PLAN by default.",
)  # fmt: skip
@click.option("--json", "report_file", type=FILE, help="Write the report here, for programs.")
@click.option(
    "--references/--no-references", default=True, show_default=True,
    help="Train each site alone, and all data pooled, to compare with.",
)  # fmt: skip
def run(
    plan: Path,
    peers: int | None,
    rounds: int | None,
    seed: int,
    keep: Path | None,
    out: Path | None,
    report_file: Path | None,
    references: bool,
) -> None:
    """Train PLAN with one node for each of its sites, from founding to the final model.

    \b
    swarm testnet run examples/heart
    swarm testnet run examples/stroke --peers 24 --json stroke.json
    """
    import msgspec

    from swarm.testnet.plot import write_plot
    from swarm.testnet.run import run_testnet
    from swarm.testnet.screen import Screen, print_report

    out = out or Path("runs") / plan.resolve().stem
    _check_writable(out, report_file)
    with signals_end_it(), Screen(plan.resolve().stem) as screen:
        report = run_testnet(
            plan,
            peers=peers,
            rounds=rounds,
            seed=seed,
            keep=keep,
            out=out,
            on_progress=screen.update,
            references=references,
        )
    if report_file is not None:
        report_file.parent.mkdir(parents=True, exist_ok=True)
        report_file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    plot = write_plot(report, out / "metric.png")
    print_report(report, plot, report_file)


@command.command()
@click.argument("plan", type=PLAN)
@run_options
@directory_option
def up(plan: Path, peers: int | None, rounds: int | None, seed: int, directory: Path) -> None:
    """Start the same in the background, and leave it running.

    \b
    swarm testnet up examples/heart
    swarm testnet status
    swarm node status runs/testnet/cleveland
    swarm testnet down
    """
    from swarm.testnet.run import start_in_background

    with signals_end_it():
        testnet = start_in_background(directory.resolve(), plan, peers, rounds, seed)
    names = ", ".join(node.name for node in testnet.file.nodes)
    click.echo(f"{len(testnet.file.nodes)} nodes train in the background: {names}")
    click.echo(f"Their directories: {directory}/NAME; their logs: node.log there.")
    click.echo("Next: `swarm testnet status`, and `swarm testnet down` to end it.")


@command.command()
@directory_option
@json_option
def status(directory: Path, as_json: bool) -> None:
    """Every node: process, addresses, round, height."""
    from swarm.testnet.run import find, plan_of

    testnet = find(directory.resolve())
    statuses = testnet.statuses()
    if as_json:
        print_json({"directory": str(testnet.directory), "nodes": statuses})
        return

    def row(status: dict[str, Any]) -> tuple[object, ...]:
        plan = plan_of(status, testnet.file.plan_id) or {}
        return (
            status["name"],
            "yes" if status["alive"] else "no",
            status["pid"],
            status.get("trainer_pid"),
            status.get("height"),
            plan.get("title"),
            plan.get("phase") or plan.get("status"),
            status.get("rpc_url"),
        )

    headings = ("name", "alive", "pid", "trainer", "height", "round", "phase", "rpc")
    print_table(headings, map(row, statuses))


@command.command()
@directory_option
@click.option("--delete", is_flag=True, help="Delete the nodes' directories, too.")
def down(directory: Path, delete: bool) -> None:
    """End the testnet. Its directories stay; `swarm node start` in each would go on."""
    from swarm.testnet import run

    file = run.take_down(directory.resolve())
    click.echo(f"{len(file.nodes)} nodes have ended")
    if delete:
        run.delete(directory.resolve())
        click.echo(f"{directory} is deleted")
