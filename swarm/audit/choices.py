"""Which model a plan chose as its best, found again from what the sites counted.

The chain has the digest of every site's counts and of the model that was chosen. A node keeps the
counts that it has added up or checked as long as the plan, so it can show that the choice follows
from them. One that was not to read them (`verify = "held"`), or came later, keeps none.
"""

from __future__ import annotations

from pathlib import Path

from swarm.audit.report import Fault, History, PlanHistory, RoundHistory
from swarm.errors import BlobError, PlanError
from swarm.learning.metrics.choice import Rule, choose, read_pair_file
from swarm.protocol.program import Program, digest_of, parse
from swarm.protocol.state import BEST_SLOT
from swarm.types import to_digest, to_hex


def check_choices(directory: Path, history: History, faults: list[Fault]) -> int:
    """Make each choice again whose counts are all here. Returns how many; notes each fault."""
    count = 0
    numbers = {member.name: member.number for member in history.members}
    for plan in history.plans:
        program = _program(directory / "programs", plan)
        if program is None:
            continue
        best = ""
        for round in plan.rounds:
            place = program.place(round.round)
            if round.outcome != "final" or place is None or place.stage.slot != BEST_SLOT:
                continue
            where = f"plan {plan.number}, {program.title_of(round.round)}"
            given = sorted(round.contributors, key=lambda name: numbers.get(name, len(numbers)))
            files = [_blob(directory, round, name) for name in given]
            if all(file.exists() for file in files):
                count += 1
                try:
                    right = _choice(Rule.read(place.stage.merge), files, round.base, best)
                except (BlobError, PlanError, OSError) as error:
                    faults.append(Fault(where, f"its counts cannot be read: {error}"))
                    right = round.model
                if right != round.model:
                    words = f"the sites' counts choose {right}, and the chain has {round.model}"
                    faults.append(Fault(where, words))
            elif round.model not in (round.base, best):
                faults.append(
                    Fault(where, f"{round.model} is neither the newest model nor the best before")
                )
            best = round.model
    return count


def _choice(rule: Rule, files: list[Path], newest: str, best: str) -> str:
    is_newest = choose(rule, [read_pair_file(file) for file in files]).is_newest
    return newest if is_newest or not best else best


def _blob(directory: Path, round: RoundHistory, name: str) -> Path:
    return directory / "blobs" / f"{to_digest(round.updates[name]).hex()}.blob"


def _program(folder: Path, plan: PlanHistory) -> Program | None:
    """The plan's program, if it is here as the chain has it."""
    try:
        blob = (folder / to_digest(plan.program).hex()).read_bytes()
        program = parse(blob)
    except (OSError, PlanError):
        return None
    return program if to_hex(digest_of(blob)) == plan.program else None
