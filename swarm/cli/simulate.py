"""`swarm simulate`: a plan with thousands of clients on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from swarm.cli.options import DIRECTORY, FILE, json_option, print_json, print_table, signals_end_it
from swarm.rounds.model_tables import lines_of

PLAN = click.Path(exists=True, path_type=Path)


def read_counts(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> tuple[int, ...]:
    """An option's callback: "1000", or "100,1000,5000"; nothing for one client a site."""
    if text is None:
        return (0,)
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdigit() and 0 < int(word) <= 1_000_000 for word in words):
        raise click.BadParameter(f"{text!r} is no number of clients: write 1000, or 100,1000")
    return tuple(map(int, words))


@click.command("simulate")
@click.argument("plan", type=PLAN)
@click.option(
    "--clients", callback=read_counts,
    help="How many; several numbers, as 100,1000, are run one after the other. One a site by "
    "default.",
)  # fmt: skip
@click.option(
    "--sample", type=click.FloatRange(0, 1_000_000, min_open=True), default=1.0,
    show_default=True, help="The part of them that trains in each round; above 1, how many.",
)  # fmt: skip
@click.option(
    "--partition", default=None,
    help="How rows are dealt: sites, iid, or dirichlet:0.3, by which each client has its own mix "
    "of labels. dirichlet:0.3 where --clients is given, sites otherwise.",
)  # fmt: skip
@click.option(
    "--drop", type=click.FloatRange(0, 1, max_open=True), default=0.0, show_default=True,
    help="The chance that a client that trains is lost on the way.",
)  # fmt: skip
@click.option("--rounds", type=click.IntRange(1), help="Instead of the plan's own number.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True)
@click.option("--processes", type=click.IntRange(1, 1024), help="Workers; one a CPU by default.")
@click.option(
    "--ray", metavar="ADDRESS", help="Run the workers on this Ray cluster; needs swarm[ray]."
)
@click.option(
    "--device", type=click.Choice(["auto", "cpu"]), default="auto", show_default=True,
    help="auto takes the GPUs that are here, with as many workers as find room, up to --processes; "
    "one is tried first. Not with --ray.",
)  # fmt: skip
@click.option("--out", type=DIRECTORY, help="Write the model's folder here.")
@click.option(
    "--plot", type=FILE, metavar="FILE.png",
    help="Draw the first metric by round to this file, and write what is drawn to FILE.json.",
)  # fmt: skip
@json_option
def command(
    plan: Path,
    clients: tuple[int, ...],
    sample: float,
    partition: str | None,
    drop: float,
    rounds: int | None,
    seed: int,
    processes: int | None,
    ray: str | None,
    device: str,
    out: Path | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Train PLAN with any number of clients, without a network.

    The same training and folds as nodes: with all clients (the sites of the plan), the model has
    the digest that nodes agree on. The result does not depend on the number of processes.

    \b
    swarm simulate examples/heart
    swarm simulate examples/stroke --clients 1000 --sample 0.1 --partition dirichlet:0.3
    swarm simulate examples/stroke --clients 100,1000,5000 --sample 100 --plot rounds.png
    """
    from swarm.errors import ConfigurationError
    from swarm.learning.models.model_folder import check_free
    from swarm.testnet.plot import write_simulation_plot
    from swarm.testnet.ray_workers import start_on
    from swarm.testnet.simulate import Simulation, simulate

    if out is not None and len(clients) > 1:
        raise ConfigurationError("--out takes the model of one run: give one number of --clients")
    if plot is not None and plot.suffix != ".png":
        raise ConfigurationError(f"--plot draws a PNG file: name it {plot.with_suffix('.png')}")
    for file in (out, plot):
        if file is not None and not file.absolute().parent.is_dir():
            raise ConfigurationError(f"{file.parent} is no directory: make it first")
    if out is not None:
        check_free(out, force=True)
    rule = partition or ("sites" if clients == (0,) else "dirichlet:0.3")
    workers = processes or os.cpu_count() or 1
    reports = []
    with signals_end_it(), start_on(ray) as start:
        for number in clients:
            show = _Progress(number, silent=as_json)
            asked = Simulation(plan, number, sample, drop, rule, seed, rounds)
            report = simulate(
                asked,
                processes=workers,
                device="cpu" if ray else device,
                out=out,
                on_round=show.round,
                start=start,
            )
            reports.append(report)
            if not as_json:
                print_report(report)
    beside = None if plot is None else write_simulation_plot(reports, plot)
    if as_json:
        print_json(reports[0] if len(reports) == 1 else {"runs": reports})
    elif plot is not None:
        click.echo(f"plot    {plot}, its figures {beside}")


class _Progress:
    """A line for each round, on the error stream."""

    def __init__(self, clients: int, silent: bool) -> None:
        self.silent = silent

    def round(self, round: dict[str, Any]) -> None:
        if not self.silent:
            shown = ", ".join(f"{n} {_shown(v)}" for n, v in round["metrics"].items())
            lost = f", {round['lost']} lost" if round["lost"] else ""
            click.echo(
                f"round {round['number']}: {round['contributors']} clients{lost}, "
                f"{round['total_s']:.1f} s  {shown}",
                err=True,
            )


def print_report(report: dict[str, Any]) -> None:
    """The end of a run, as a testnet tells it."""
    names = list(report["swarm"])
    row = (report["clients"], report["rows"], *(_shown(report["swarm"][n]) for n in names))
    print_table(("clients, on held-back rows", "training rows", *names), [row])
    for own in report["personal"]:
        told = own["figures"]
        click.echo(
            f"each site's own copy, mean of {told['sites']} by their validation rows: "
            + ", ".join(
                f"{name} {_shown(told['before'][name])} → {_shown(value)}"
                for name, value in told["after"].items()
            )
        )
    for heading, lines in lines_of(report["table"]) if report["table"] else ():
        print_table(heading, lines)
    size = report["peak_memory_bytes"] / 2**20
    workers = ", ".join(f"{count} on {device}" for device, count in report["devices"].items())
    click.echo(
        f"{len(report['rounds'])} rounds in {report['wall_s']:.0f} s, {size:.0f} MiB at most; "
        f"workers: {workers}"
    )
    if report["final_model"]["path"]:
        click.echo(f"model   {report['final_model']['path']}")
    click.echo(f"digest  {report['final_model']['digest']}")
    for note in report["notes"]:
        click.echo(f"Note: {note}")


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
