"""A fault plan: which nodes, which faults, when, and what must hold at the end. Written as TOML.

    about = "The leader dies as soon as submission has closed."
    plan = "../../examples/stroke"      # relative to this file
    rounds = 6

    [[fault]]
    do = "kill"
    who = ["leader"]
    when = { round = 3, phase = "closed" }
    for_s = 10                          # then it is started again; without: dead for good

    [at_most]
    final_s = 8                         # from the kill to another leader's model

A fault comes to pass at the first moment when all of its `when` holds. What a plan leaves to chance
is drawn from the seed, so that the same seed orders the same faults; when they come to pass depends
on the machine, as it does in life.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from swarm.errors import ConfigurationError

Who = Literal["leader", "holder", "proposer", "anyone", "liar", "all"]
Target = Annotated[int, msgspec.Meta(ge=0)] | Who
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Disk = Literal[
    "votes deleted",
    "votes saved",
    "votes rolled back",
    "chain deleted",
    "vaults deleted",
    "vaults saved",
    "vaults rolled back",
]

MEASURES = {
    "final_s": "from a leader's death to the model of its round",
    "noticed_s": "from a cut to nobody counting those beyond it as connected",
    "moved_s": "from healing to a new block at every node",
    "caught_up_s": "from a node's return to the others' height of that moment",
    "voting_s": "from a node's return to its voting again",
    "auc_gap": "difference to the undisturbed run's AUC",
    "slowdown": "seconds a round after the faults, in the median and in the mean, over those of an "
    "undisturbed run that takes turns with it",
    "contributes_after_rounds": "from a newcomer's admission to its first contribution",
    "memory_growth": "of a node's main process, from round 50 to the end, as a part of it",
    "trainer_growth": "of its trainer, likewise",
    "handles_growth": "how many more open files and sockets a node has at the end",
    "threads_growth": "how many more threads",
    "tasks_growth": "how many more tasks",
    "blobs_growth": "how many more files in its blob store",
    "chain_kb_a_round": "how much its replica of the chain grows (1000 bytes)",
}
COMPARED = frozenset(("auc_gap", "slowdown"))
"""What takes an undisturbed run to compare with."""
GROWTH = frozenset(name for name in MEASURES if name.endswith("growth")) | {"chain_kb_a_round"}
COUNTS = {
    "kills": "nodes ended by SIGKILL",
    "trainer_kills": "trainers ended by SIGKILL while they trained",
    "leader_kills": "of leaders between close and merge, as the chain bears out",
    "proposer_kills": "of the validator whose turn it was to propose",
    "restarts": "nodes started again",
    "stops": "nodes stopped by SIGSTOP",
    "upgrades": "nodes ended in order, and started again with a newer release",
    "mixed_rounds": "rounds that became final while some nodes had the newer release and some not",
    "cuts": "times that links were cut",
    "rounds_in_cut": "rounds that became final while links were cut",
    "lies": "of all kinds, that lying members have told, asked or sent",
}


class When(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`after_s` counts from when `round` (or a later one) was first seen."""

    round: Annotated[int, msgspec.Meta(ge=0)] = 0
    phase: Literal["open", "closed", "masking", "locked"] | None = None
    after_s: Seconds = 0.0


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`for_s`: after which it is undone, or the newer release of an upgrade started. `disk`: what
    is done to a killed node's files meanwhile. `groups`: of a cut, those that do not reach each
    other any more; who is in none reaches all."""

    do: Literal["kill", "kill trainer", "stop", "cut", "admit", "upgrade"]
    when: When = When()
    who: tuple[Target, ...] = ()
    groups: tuple[tuple[Target, ...], ...] = ()
    for_s: Seconds | None = None
    disk: Disk | None = None


class Storm(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Kills without a pattern: so many of leaders, of proposers, of anyone, of liars, spread over
    the rounds; each node is down for a time between the two of `down_s`.

    Anyone is somebody honest."""

    leaders: int = 0
    liars: int = 0
    proposers: int = 0
    others: int = 0
    down_s: tuple[Seconds, Seconds] = (0.0, 20.0)


class Made(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A plan on made-up rows: `sites` of them, a model of about `width`² parameters, or one of
    examples/methods, and rounds in which each site trains for `training_s` at least (it sleeps:
    nodes that share a machine's cores would else have them for nothing but each other)."""

    sites: Annotated[int, msgspec.Meta(ge=2)]
    width: Annotated[int, msgspec.Meta(ge=1)] = 4
    training_s: Seconds = 0.0
    secure: bool = False
    """Whether its rounds are masked; of made-up rows that are no method's."""
    method: Annotated[str, msgspec.Meta(pattern="^[a-z_]+$")] | None = None


class FaultPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a file says. `nodes` are the first of the `peers` that the plan's sites are dealt to."""

    about: str
    plan: str | Made
    rounds: Annotated[int, msgspec.Meta(ge=1)]
    peers: Annotated[int, msgspec.Meta(ge=2)] | None = None
    nodes: Annotated[int, msgspec.Meta(ge=2)] | None = None
    namespaces: bool = False
    firewalled: tuple[Annotated[int, msgspec.Meta(ge=0)], ...] = ()
    """Nodes that nobody can dial."""
    liars: Annotated[int, msgspec.Meta(ge=0)] = 0
    """How many of the nodes, counted from the last, lie; what they say is drawn from the seed."""
    opposite: float | None = None
    """Instead, liars do everything right but that they send so many times the opposite of what they
    have learnt."""
    exact: bool = False
    """Whether model, state of its step and what each site keeps must be those of a run in one
    process, in which nothing fails, with the same liars if they send the opposite."""
    undisturbed_nodes: Annotated[int, msgspec.Meta(ge=2)] | None = None
    """With how many nodes the run to compare with is made; none is made by default."""
    at_most_down: Annotated[int, msgspec.Meta(ge=1)] = 256
    deadline_s: Seconds = 900.0
    keep_models: Annotated[int, msgspec.Meta(ge=1)] | None = None
    """How many final models each node keeps; all by default."""
    environment: dict[str, str] = {}
    """Of the nodes, beside the runner's own."""
    seeds: Annotated[int, msgspec.Meta(ge=1)] = 1
    """How many runs make the whole of it."""
    fault: tuple[Fault, ...] = ()
    storm: Storm | None = None
    at_most: dict[str, float] = {}
    at_least: dict[str, int] = {}


def read_plan(path: Path) -> FaultPlan:
    """Read and check a fault plan. Raises ConfigurationError, naming the file and the place."""
    try:
        plan = msgspec.toml.decode(path.read_bytes(), type=FaultPlan)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    if plan.firewalled and not plan.namespaces:
        raise ConfigurationError(f"{path}: firewalled needs namespaces = true")
    for fault in plan.fault:
        _check(path, plan, fault)
    for name in set(plan.at_most) - set(MEASURES) | set(plan.at_least) - set(COUNTS):
        known = ", ".join([*MEASURES, *COUNTS])
        raise ConfigurationError(f"{path}: nobody measures {name!r}; there are: {known}")
    if COMPARED & plan.at_most.keys() and plan.undisturbed_nodes is None:
        raise ConfigurationError(f"{path}: give undisturbed_nodes, to have a run to compare with")
    if "slowdown" in plan.at_most and plan.namespaces:
        raise ConfigurationError(
            f"{path}: slowdown takes two runs at once, and namespaces hold one: leave one out"
        )
    return plan


def _check(path: Path, plan: FaultPlan, fault: Fault) -> None:
    if fault.do == "cut" and not (plan.namespaces and fault.groups):
        raise ConfigurationError(f"{path}: a cut needs namespaces = true, and groups")
    if "all" in [target for group in fault.groups for target in group]:
        raise ConfigurationError(f"{path}: a cut divides: name those in each group")
    if fault.do in ("kill", "kill trainer", "stop", "upgrade") and not fault.who:
        raise ConfigurationError(f"{path}: {fault.do} whom? Add who = [...]")
    if fault.do == "upgrade" and fault.for_s is None:
        raise ConfigurationError(f"{path}: an upgrade needs for_s: how long installing takes")
    if fault.disk is not None and (fault.do != "kill" or fault.for_s is None):
        raise ConfigurationError(f"{path}: disk = {fault.disk!r} needs a kill with for_s")


def faults_of(plan: FaultPlan, seed: int) -> list[Fault]:
    """The faults of one run: those written, and the storm's, by round."""
    faults = list(plan.fault)
    if plan.storm is not None:
        faults += _blow(plan.storm, plan.rounds, random.Random(seed))
    return sorted(faults, key=lambda fault: fault.when.round)


def _blow(storm: Storm, rounds: int, draw: random.Random) -> list[Fault]:
    """Spread over all rounds but the last, and within them by up to three seconds."""
    kinds: list[Target] = ["leader"] * storm.leaders
    kinds += ["proposer"] * storm.proposers
    kinds += ["anyone"] * storm.others
    kinds += ["liar"] * storm.liars
    draw.shuffle(kinds)
    places = max(1, rounds - 1)
    return [
        Fault(
            do="kill",
            who=(kind,),
            when=When(
                round=1 + index * places // len(kinds),
                phase="closed" if kind == "leader" else None,
                after_s=0.0 if kind == "leader" else round(draw.uniform(0, 3), 2),
            ),
            for_s=round(draw.uniform(*storm.down_s), 2),
        )
        for index, kind in enumerate(kinds)
    ]
