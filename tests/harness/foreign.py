"""What an honest node of a simulated consortium does about plans that a liar proposes.

It reads each, refuses those with a program that their code has not, and follows the others with a
real round machine as far as that decides: what it asks for is not done, as these plans are nobody's
work. Whatever it raises would have ended the node.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from harness.simnet import Violation
from swarm.errors import ConfigurationError
from swarm.node.plans.programs import check_program
from swarm.protocol.machine import ChainObserved, RoundMachine
from swarm.protocol.program import Program, federated_averaging
from swarm.protocol.state import MemberSet, Plan
from swarm.types import MemberId, PlanId

CODE = federated_averaging(4, statistics=True)
"""What the code of every plan says: there is but one."""


@contextmanager
def ending(node: MemberId) -> Iterator[None]:
    """Whatever is raised by what is shipped would end the node: a broken promise."""
    try:
        yield
    except Violation:
        raise
    except Exception as error:
        raise Violation(f"n{node} ends: {type(error).__name__}: {error}") from error


class ForeignPlans:
    """Those that one life of a node has heard of."""

    def __init__(self, me: MemberId, secret: bytes) -> None:
        self._me, self._secret = me, secret
        self._machines: dict[PlanId, RoundMachine | None] = {}

    def observe(self, plan: Plan, members: MemberSet, now: float) -> None:
        """A block has changed this plan."""
        with ending(self._me):
            if plan.id not in self._machines and plan.participants >> self._me & 1:
                self._machines[plan.id] = self._take_up(plan)
            machine = self._machines.get(plan.id)
            if machine is not None:
                machine.handle(ChainObserved(plan, members), now)

    def _take_up(self, plan: Plan) -> RoundMachine | None:
        try:
            program = self.program_of(plan)
        except ConfigurationError:
            return None
        return RoundMachine(plan.id, self._me, self._secret, lambda digest: True, program)

    def program_of(self, plan: Plan) -> Program:
        """What the plan's rounds are for. Raises ConfigurationError."""
        rounds = plan.rules.rounds - (CODE.rounds - CODE.training_rounds)
        proposed = CODE if rounds < 1 else CODE.with_rounds(rounds)
        check_program(plan, proposed, CODE)
        return proposed
