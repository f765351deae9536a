"""A plan's rules and stages in words, for whoever is to consent: from its description, as the
control socket gives it (`node.commands.described`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from swarm.errors import PlanError
from swarm.learning.metrics.choice import Rule
from swarm.learning.parameters.placement import read_placement
from swarm.learning.plans.stages import CROSS_EVALUATE, SELECT, SEND_COPY
from swarm.protocol.state import MODEL_SLOT

CHECKED = {
    "full": "every member that attests a merge has computed all of it again",
    "shared": "members that attest a merge have each computed a drawn part of it again",
    "held": "members that attest a merge hold its model, and have not computed it again",
}
TASKS = {
    SEND_COPY: "each site's own model, with what stays at the site otherwise, is sent to all "
    "members",
    CROSS_EVALUATE: "each site counts how well each of the models does on its test rows, and "
    "all members see the table",
}


def rules_in_words(rules: Mapping[str, Any]) -> list[str]:
    """What the contract holds all members to. Of who may read what, `secrecy_of` tells."""
    level = rules["verify_level"]
    lines = [
        f"{rules['rounds']} rounds in all, statistics and the like among them",
        f"no round without {rules['min_peers']} sites (min_peers), each with "
        f"{rules['min_rows']} training rows or more (min_rows)",
        f"{CHECKED.get(level, 'checks of a later release')} (verify_level {level})",
        f"a round waits {rules['grace_s']} s for the others once min_peers have submitted, for who "
        f"was heard of in the last {rules['liveness_s']} s longer, and for nobody beyond "
        f"{rules['max_round_s']} s",
    ]
    if rules["window_s"]:
        lines.append(f"and for everybody in its first {rules['window_s']} s")
    return lines


def stages_in_words(stages: list[dict[str, Any]]) -> Iterator[tuple[str, list[str], str]]:
    """Of each stage a heading, what becomes of what sites send, and what the proposer has changed
    of the code's: empty if nothing."""
    parts = sum(each["slot"] == MODEL_SLOT for each in stages)
    for number, stage in enumerate(stages, 1):
        rounds = f"{stage['rounds']} round{'s' if stage['rounds'] > 1 else ''}"
        line = f"stage {number}  {stage['name']}: {rounds}, task {stage['task']}"
        if stage["epochs"]:
            line += f", {stage['epochs']} epochs"
        changed = []
        if stage["written"]:
            in_all = " of training in all" if parts > 1 else ""
            changed.append(f"its code says {stage['written']} rounds{in_all}")
        if stage["before"]:
            changed.append(f"it continues after round {stage['before']}")
        yield line, _merge_in_words(stage), "; ".join(changed)


def _merge_in_words(stage: Mapping[str, Any]) -> list[str]:
    """What becomes of what a stage's sites send; of a later release's, the text as it stands."""
    try:
        if stage["task"] in TASKS:
            return [TASKS[stage["task"]]]
        if stage["task"] == SELECT:
            rule = Rule.read(stage["merge"])
            ends = "; the plan is complete if that is the one before" if stage["ends"] else ""
            which = "lowest" if rule.lowest else "highest"
            return [
                f"the best model is the newest or the one before, by the {which} "
                f"{rule.metric}{ends}"
            ]
        return read_placement(stage["merge"]).in_words()
    except PlanError as error:
        return [str(error)]
