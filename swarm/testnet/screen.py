"""What a person sees of a run: one line for each node while it goes, and the result at its end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group, JustifyMethod
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from swarm.rounds.model_tables import lines_of
from swarm.visible import visible

Statuses = list[dict[str, Any]]

WIDEST_TABLE = 400
"""Of a table that is not to be folded to the terminal's width."""


class Screen:
    """Live on a terminal; elsewhere one line for each round."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._console = Console(highlight=False)
        self._live = Live(console=self._console, refresh_per_second=8, transient=True)
        self._began = time.monotonic()
        self._told: tuple[str, int] = ("", -1)

    def __enter__(self) -> Screen:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def update(self, doing: str, statuses: Statuses) -> None:
        """Show what is going on. `statuses` are the nodes', empty where there are none."""
        seconds = time.monotonic() - self._began
        if self._console.is_terminal:
            heading = Text(visible(f"{self._title}: {doing}   {seconds:.0f} s"), style="bold")
            table = [_table(statuses)] if statuses else []
            self._live.update(Group(heading, *table, *_troubles(statuses)))
            return
        for number, line in _finished(statuses):
            if number > self._told[1]:
                self._told = (self._told[0], number)
                self._say(f"{seconds:6.1f} s  {line}")
        if doing != self._told[0] and doing != "training":
            self._told = (doing, self._told[1])
            self._say(f"{seconds:6.1f} s  {doing}")

    def _say(self, line: str) -> None:
        """One line; names in it may hold anything."""
        self._console.print(Text(visible(line)), soft_wrap=True)


def _plan(status: dict[str, Any]) -> dict[str, Any]:
    plans = [p for p in status.get("plans", []) if "status" in p]
    return plans[-1] if plans else {}


def _finished(statuses: Statuses) -> list[tuple[int, str]]:
    """One line for each round that is final everywhere the first node can see."""
    if not statuses:
        return []
    lines = []
    for record in _plan(statuses[0]).get("records", []):
        if not record["model"]:
            continue
        who = f"{len(record['contributors'])} sites, merged by {record['leader'] or '?'}"
        if record["omitted"]:
            left_out = (f"{name} ({why})" for name, why in record["omitted"].items())
            who += f", without {', '.join(left_out)}"
        lines.append((record["round"], f"{record['title']}: {who}, {record['total_s']:.1f} s"))
    return lines


def _table(statuses: Statuses) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="dim")
    for heading in ("site", "round", "", "doing", "validation", "sent", "received"):
        justify: JustifyMethod = "right" if heading in ("sent", "received") else "left"
        # As wide as it will ever be, so that nothing jumps.
        width = len("checks the merge") if heading == "doing" else None
        table.add_column(heading, justify=justify, no_wrap=True, min_width=width)
    for status in statuses:
        plan = _plan(status)
        table.add_row(
            Text(visible(status["name"]), style="" if status["alive"] else "red"),
            f"{plan.get('model_round', 0)} of {plan['rounds']}" if plan else "",
            ProgressBar(
                total=plan.get("rounds", 1), completed=plan.get("model_round", 0), width=10
            ),
            _doing(status, plan),
            _score(plan),
            size(status.get("bytes_sent", 0)),
            size(status.get("bytes_received", 0)),
        )
    return table


def _troubles(statuses: Statuses) -> list[Text]:
    """What the nodes say about a round that had to be tried again."""
    plans = [_plan(status) for status in statuses]
    reports = {p["last_report"] for p in plans if p and (p["attempt"] or 1) > 1}
    return [Text(visible(report), style="yellow") for report in sorted(reports) if report]


def _doing(status: dict[str, Any], plan: dict[str, Any]) -> Text:
    if not status["alive"]:
        return Text("not running", style="red")
    if not plan:
        return Text("connecting")
    if plan["halted"]:
        return Text("stopped", style="red")
    if plan["training"] is not None:
        return Text(f"trains, {plan['training']['fraction']:.0%}", style="cyan")
    if plan["leader"] == status["name"]:
        return Text("leads the merge", style="green")
    if plan["phase"] == "closed":
        return Text("checks the merge")
    if plan["status"] == "completed":
        return Text("done")
    waits = status["name"] in plan["submitted"]
    return Text("has submitted" if waits else "prepares")


def _score(plan: dict[str, Any]) -> str:
    for record in reversed(plan.get("records", [])):
        scores = record["metrics"].get("validation") or record["metrics"].get("test") or {}
        for name, value in scores.items():
            return f"{name} {_number(value)}"
    return ""


def size(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError


def print_report(report: dict[str, Any], plot: Path | None, report_file: Path | None) -> None:
    """The end of a run: scores, seconds, where the model lies, and what to do next."""
    console = Console(highlight=False)
    metrics = list(report["swarm"])
    rounds = [r for r in report["rounds"] if r["number"] is not None]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("scored on all sites' held-back rows")
    table.add_column("training rows", justify="right")
    for metric in metrics:
        table.add_column(Text(visible(metric)), justify="right")
    for site in report["sites"]:
        values = [_number(site["local"].get(metric)) for metric in metrics]
        name = f"{site['name']} alone" if site["local"] else site["name"]
        table.add_row(Text(visible(name)), str(site["samples"]["train"]), *values)
    total = sum(site["samples"]["train"] for site in report["sites"])
    swarm = [_number(report["swarm"].get(metric)) for metric in metrics]
    table.add_row(Text("swarm", style="bold green"), str(total), *swarm)
    if report["pooled"]:
        pooled = [_number(report["pooled"].get(metric)) for metric in metrics]
        table.add_row(
            Text("all data pooled (a reference; never done)", style="dim"), str(total), *pooled
        )
    console.print()
    console.print(table)
    console.print()
    if report["joint"]:
        console.print(_joint(report["joint"]))
        console.print()
    wide = Console(highlight=False, soft_wrap=True, width=WIDEST_TABLE)
    for table in _cross_evaluation(report):
        wide.print(table)
        console.print()
    console.print(_fairness(report), soft_wrap=True)
    for note in report["notes"]:
        console.print(Text(note, style="yellow"), soft_wrap=True)
    if rounds:
        median = sorted(r["total_s"] for r in rounds)[len(rounds) // 2]
        moved = sum(r["bytes_sent"] for r in report["rounds"])
        console.print(
            f"{len(rounds)} rounds in {report['wall_s']:.0f} s, {median:.2f} s a round (median), "
            f"{size(moved)} between the nodes",
            soft_wrap=True,
        )
    lines = [
        f"model   {report['final_model']['path']}  (safetensors)",
        f"digest  {report['final_model']['digest']}",
    ]
    if plot is not None:
        lines.append(f"plot    {plot}")
    if report_file is not None:
        lines.append(f"report  {report_file}")
    for line in lines:
        console.print(Text(visible(line)), soft_wrap=True)
    console.print(
        "Next: write a plan for your own data (docs/plans.md), or found a consortium with others "
        "(docs/operations.md).",
        soft_wrap=True,
    )


def _joint(scores: dict[str, Any]) -> Table:
    """What the sites know together of the last model, without anybody's rows."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("added up from the sites' counts")
    for heading in ("", "95% interval", "rows", "sites"):
        table.add_column(heading, justify="right")
    for name, score in scores.items():
        for number, (key, figure) in enumerate(score["figures"].items()):
            ends = [_number(figure[end]) for end in ("low", "high")]
            table.add_row(
                Text(visible(f"  {key}" if number else name)),
                _number(figure["value"]),
                "" if figure["low"] is None else " to ".join(ends),
                str(figure["rows"]),
                "" if number else str(len(score["sites"])),
            )
    return table


def _cross_evaluation(report: dict[str, Any]) -> Iterator[Table]:
    """What each site's rows say of each site's model, if the plan has found that out."""
    # Reports of earlier releases have none.
    for told in [r["table"] for r in report["rounds"] if r.get("table")][-1:]:
        for heading, lines in lines_of(told):
            table = Table(box=None, pad_edge=False, header_style="bold")
            table.add_column(Text(visible(f"{heading[0]}, each model at each site")), no_wrap=True)
            for each in heading[1:]:
                table.add_column(Text(visible(each)), justify="right", no_wrap=True)
            for line in lines:
                table.add_row(*(Text(visible(cell)) for cell in line))
            yield table


def _fairness(report: dict[str, Any]) -> Text:
    """By which rules the models of the table compete."""
    own = {name: given for name, given in report["references"].items() if given}
    told = "; ".join(
        f"{name} with {', '.join(f'{key} {value}' for key, value in given.items())}"
        for name, given in own.items()
    )
    words = f"{report['test_looks']} models were scored on these rows, each once. All are prepared "
    words += "with the same statistics"
    words += (
        f"; settings of their own: {told}" if told else ", and trained with the plan's settings"
    )
    return Text(words + ".", style="dim")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
