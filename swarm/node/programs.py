"""The program of a plan, rebuilt from what its code says.

The chain has only the digest of a plan's stages. Whoever takes part computes them from the code
that it has read and compares: then what the rounds are for is what was consented to.
"""

from __future__ import annotations

from swarm.errors import ConfigurationError
from swarm.learning.messages import Loaded
from swarm.protocol.program import Program, federated_averaging
from swarm.protocol.state import Plan


def stages_of(loaded: Loaded, training_rounds: int) -> Program:
    """The program of a plan with this code and so many rounds of training."""
    return federated_averaging(training_rounds, loaded.has_statistics)


def program_of(plan: Plan, loaded: Loaded) -> Program:
    """The program of a proposed plan. Raises ConfigurationError if it is not what its code says, or
    if it is one of a later release."""
    program = stages_of(loaded, plan.rules.rounds - loaded.has_statistics)
    if program.digest != plan.program:
        raise ConfigurationError(
            f"plan {plan.id} ({plan.name}) has stages other than its code says, or such as this "
            "release of swarm does not know: do not join it; ask its proposer which release it is "
            "for"
        )
    return program
