"""A running node in a notebook: what it knows as frames, and a picture that stays fresh.

    node = swarm.connect("hospital")
    node.rounds()
    node.live()

It asks over the node's control socket, as the command line does: nothing is changed by it, and
whatever the notebook does, the node does not notice. Frames are of pandas if that is installed,
and lists of dicts otherwise.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.dashboard.pictures import STEPS, Lane, PlanPicture, plan_pictures
from swarm.errors import ConfigurationError, LocalError
from swarm.node.commands.control import ask, read_running
from swarm.visible import visible, visible_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ASK_S = 60.0
ROUND = (
    *("plan", "round", "number", "title", "attempt", "leader", "contributors", "omitted"),
    *("loss", "train_s", "exchange_s", "merge_s", "chain_s", "total_s"),
    *("bytes_sent", "bytes_received", "final_at", "model"),
)
FIGURE = (
    *("plan", "number", "title", "rows", "metric", "figure", "site"),
    *("value", "low", "high", "n"),
)
MEMBER = ("name", "here", "connected", "validator", "release", "clock_s", "account", "notes")
PLAN = ("id", "name", "status", "model_round", "rounds", "proposer", "participants", "digest")
STATES = {
    "done": ("#7fbf7b", "done"),
    "now": ("#92c5de", "now"),
    "late": ("#f4a582", "waits"),
    "none": ("#dddddd", "–"),
    "": ("#ffffff", ""),
}
"""A step's colour and word, as `swarm.dashboard.pictures` has it."""


def connect(node: str | Path | None = None) -> Connection:
    """The node that runs in the directory `node`, the environment's SWARM_NODE, or here.

    Raises ConfigurationError if none does.
    """
    directory = Path(node or os.environ.get("SWARM_NODE") or ".")
    read_running(directory)
    return Connection(directory)


@dataclass(frozen=True)
class Connection:
    """One running node. Each method asks it anew; all text of others is shown as what it is.

    Raises ConfigurationError where the node refuses or does not run, LocalError where it is silent.
    """

    directory: Path

    def status(self) -> dict[str, Any]:
        """What `swarm node status --json` tells."""
        return self._ask("status")  # type: ignore[no-any-return]

    def plans(self) -> Any:
        """A row for each plan on the chain: `PLAN`. Of one that this release cannot read, its
        number alone."""
        return _frame([{k: plan.get(k) for k in PLAN} for plan in self._ask("plans")], PLAN)

    def members(self) -> Any:
        """A row for each present member: `MEMBER`. `here` is this node; `clock_s` is how far its
        clock is ahead of this machine's."""
        status, found = self.status(), self._ask("members")["members"]
        return _frame(member_rows(found, status), MEMBER)

    def rounds(self, plan: int | None = None) -> Any:
        """A row for each final round of a plan, the newest by default: `ROUND`, and a column for
        each score, such as `validation.auc` (the merged model, on this site's rows) and `own.auc`
        (this site's update). Seconds and bytes are this node's; `final_at` is in UTC."""
        number, records = self._records(plan)
        rows = round_rows(number, records)
        scores = [name for row in rows for name in row if name not in ROUND]
        return _frame(rows, (*ROUND, *dict.fromkeys(scores)))

    def figures(self, plan: int | None = None) -> Any:
        """A row for each number that all sites' rows, or one site's, say of a merged model:
        `FIGURE`. `site` is None for all sites together; `low` and `high` bound the 95 % interval
        where there is one; `n` is how many rows it is of."""
        number, records = self._records(plan)
        return _frame(list(figure_rows(number, records)), FIGURE)

    def picture(self, plan: int | None = None) -> Picture:
        """A plan as it stands now: who waits for whom, and its scores by round."""
        return self._draw(self.status(), plan)

    def live(
        self, plan: int | None = None, *, show: Callable[[Picture], object] | None = None
    ) -> None:
        """Show the picture, and show it anew whenever it changes, until the plan is over or the
        cell is interrupted. `show` is how; by default, as the output of a notebook's cell."""
        show, version = show or _display(), ""
        try:
            while True:
                answer = self._ask("watch", seen=version)
                if answer["version"] == version:
                    continue
                version, status = answer["version"], answer["status"]
                show(self._draw(status, plan))
                if _is_over(self._status_of(status, plan)):
                    return
        except KeyboardInterrupt:
            return

    # Below: how.

    def _ask(self, method: str, /, **arguments: object) -> Any:
        return visible_in(ask(self.directory, method, ASK_S, **arguments))

    def _records(self, plan: int | None) -> tuple[int, list[dict[str, Any]]]:
        number = self._status_of(self.status(), plan)["id"]
        return number, self._ask("records", plan=number)

    def _status_of(self, status: dict[str, Any], plan: int | None) -> dict[str, Any]:
        """A plan as this node's status has it."""
        found = {p["id"]: p for p in status["plans"] if "status" in p}
        if not found:
            raise ConfigurationError(
                f"{status['name']} takes part in no plan yet: `swarm plan list` shows what is "
                "proposed"
            )
        if plan is not None and plan not in found:
            numbers = ", ".join(map(str, sorted(found)))
            raise ConfigurationError(
                f"{status['name']} takes no part in plan {plan}; there are: {numbers}"
            )
        return dict(found[plan or _newest(found)])

    def _draw(self, status: dict[str, Any], plan: int | None) -> Picture:
        number = self._status_of(status, plan)["id"]
        (picture,) = (p for p in plan_pictures(status) if p.id == number)
        return Picture(_png(picture, self._ask("records", plan=number)))


@dataclass(frozen=True)
class Picture:
    """A PNG, which notebooks show."""

    png: bytes

    def _repr_png_(self) -> bytes:
        return self.png

    def save(self, path: str | Path) -> None:
        """Write it to a file."""
        Path(path).write_bytes(self.png)


def member_rows(members: Sequence[dict[str, Any]], status: dict[str, Any]) -> list[dict[str, Any]]:
    """Members, as the chain has them, beside what the node tells of its connections."""
    peers = {peer["name"]: peer for peer in status["peers"]}
    rows = []
    for member in members:
        peer, is_here = peers.get(member["name"], {}), member["node"] == status["account"]
        if member["present"]:
            rows.append(
                {
                    "name": member["name"],
                    "here": is_here,
                    "connected": is_here or peer.get("connected", False),
                    "validator": member["validator"],
                    "release": peer.get("release", ""),
                    "clock_s": 0.0 if is_here else peer.get("clock_s"),
                    "account": member["account"],
                    "notes": peer.get("notes", []),
                }
            )
    return rows


def round_rows(plan: int, records: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records of rounds, those that are final, with scores in columns of their own."""
    rows = []
    for record in records:
        if record["model"]:
            row = {name: record.get(name) for name in ROUND} | {"plan": plan}
            row["final_at"] = datetime.fromtimestamp(record["final_at"], UTC)
            scores = {**record["metrics"], "own": record["own_metrics"]}
            for part, values in scores.items():
                row |= {f"{part}.{metric}": value for metric, value in values.items()}
            rows.append(row)
    return rows


def figure_rows(plan: int, records: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What sites count together, as long rows."""
    for record in records:
        place = {"plan": plan, "number": record["number"], "title": record["title"]}
        for part, scores in record["joint"].items():
            for metric, score in scores.items():
                where = {**place, "rows": part, "metric": metric}
                main = next(iter(score["figures"]), metric)
                for name, told in score["figures"].items():
                    yield {**where, "figure": name, "site": None, **_told(told)}
                for site, told in score["sites"].items():
                    yield {**where, "figure": main, "site": site, **_told(told)}


def _told(figure: dict[str, Any]) -> dict[str, Any]:
    return {
        "value": figure["value"],
        "low": figure["low"],
        "high": figure["high"],
        "n": figure["rows"],
    }


def _frame(rows: list[dict[str, Any]], columns: Sequence[str]) -> Any:
    """A pandas DataFrame with these columns, or the rows themselves where there is no pandas."""
    if find_spec("pandas") is None:
        return rows
    return import_module("pandas").DataFrame(rows, columns=list(columns))


def _display() -> Callable[[Picture], object]:
    """What shows a picture below the running cell, in the place of the one before."""
    if find_spec("IPython") is None or import_module("IPython").get_ipython() is None:
        raise LocalError(
            "a picture is live in a notebook; elsewhere, `picture().save(FILE)` writes it, or "
            "`live(show=…)` gives it to a function"
        )
    handle: list[Any] = []

    def show(picture: Picture) -> None:
        if handle:
            handle[0].update(picture)
        else:
            handle.append(import_module("IPython.display").display(picture, display_id=True))

    return show


def _newest(plans: Mapping[int, dict[str, Any]]) -> int:
    """The newest that runs, or that has made a model, or that there is."""
    runs = [n for n, plan in plans.items() if plan["status"] == "running"]
    made = [n for n, plan in plans.items() if plan["model_round"]]
    return max(runs or made or plans)


def _is_over(plan: dict[str, Any]) -> bool:
    return plan["status"] in ("completed", "stopped")


def _png(picture: PlanPicture, records: Sequence[dict[str, Any]]) -> bytes:
    """Lanes above, the first score of the newest rounds below."""
    from matplotlib.figure import Figure  # without pyplot: the notebook's own stays as it is
    from matplotlib.text import Text

    lanes = len(picture.lanes)
    figure = Figure(figsize=(7.5, 3.6 + 0.3 * lanes), dpi=110, layout="constrained")
    heights = [0.3 * lanes + 0.2, 3.2]
    if lanes:
        above, below = figure.subplots(2, 1, height_ratios=heights)
        _draw_lanes(above, picture.lanes)
    else:
        below = figure.subplots()
    _draw_scores(below, records)
    title = f"plan {picture.id} {picture.name}: {picture.headline}"
    figure.suptitle(visible(title), fontsize=10, parse_math=False)
    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a name of others is no formula
    written = io.BytesIO()
    figure.savefig(written, format="png")
    return written.getvalue()


def _draw_lanes(axes: Axes, lanes: Sequence[Lane]) -> None:
    for row, lane in enumerate(lanes):
        for column, step in enumerate(lane.steps):
            colour, word = STATES[step]
            axes.barh(row, 1, left=column, height=0.9, color=colour, edgecolor="#ffffff")
            if word == "now" and column == 0 and lane.words:
                word = lane.words
            axes.text(column + 0.5, row, word, ha="center", va="center", fontsize=8)
    axes.set_yticks(range(len(lanes)), [lane.name for lane in lanes], fontsize=8)
    axes.set_xticks([column + 0.5 for column in range(len(STEPS))], STEPS, fontsize=8)
    axes.xaxis.tick_top()
    axes.invert_yaxis()
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _draw_scores(axes: Axes, records: Sequence[dict[str, Any]]) -> None:
    """All sites' figure with its interval, where sites count; this site's own score otherwise."""
    figures = [f for f in figure_rows(0, records) if f["rows"] == "validation"]
    name = next((f["metric"] for f in figures), "")
    told = [f for f in figures if f["metric"] == name and f["site"] is None and f["number"]]
    told = [f for f in told if f["figure"] == told[0]["figure"] and f["value"] is not None]
    if told:
        rounds = [f["number"] for f in told]
        axes.plot(rounds, [f["value"] for f in told], "o-", color="#1b7837", markersize=3)
        bounded = [f for f in told if f["low"] is not None and f["high"] is not None]
        axes.fill_between(
            [f["number"] for f in bounded],
            [f["low"] for f in bounded],
            [f["high"] for f in bounded],
            color="#1b7837",
            alpha=0.15,
        )
        axes.set_ylabel(f"{name}, all sites' validation rows", fontsize=8)
    else:
        rows = [r for r in round_rows(0, records) if r["number"]]
        name = next((n for r in rows for n in r if "." in n), "")
        scored = [r for r in rows if r.get(name) is not None]
        axes.plot(
            [r["number"] for r in scored],
            [r[name] for r in scored],
            "o-",
            color="#1b7837",
            markersize=3,
        )
        axes.set_ylabel(f"{name}, this site's rows" if name else "no score yet", fontsize=8)
    axes.set_xlabel("round", fontsize=8)
    axes.locator_params(axis="x", integer=True)
    axes.grid(alpha=0.25)
