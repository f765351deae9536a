"""The contract's refusals in a person's words: what is wrong, and what to do about it.

Only those that a command can provoke; the round machine reads the errors' names instead.
"""

from __future__ import annotations

from swarm.errors import ConfigurationError, ContractError
from swarm.protocol.state import PlanStatus

_WORDS = {
    "ConsortiumNotMember": "{sender} is no member here: ask a member to propose this node's "
    "card.json with `swarm contract propose --admit`",
    "ConsortiumUnknownMember": "there is no member {member}: see `swarm contract members`",
    "ConsortiumKeyInUse": "the key {key} belongs to a member already, or did once: make a new one "
    "with `swarm init`",
    "ConsortiumBadName": "the name has {size} bytes: choose one of 1 to 64",
    "ConsortiumBadCharacter": "the name has a character at byte {at} that cannot be seen, or "
    "that changes the direction of text: choose another name",
    "ConsortiumNameInUse": "member {member} has this name already: choose another",
    "ConsortiumNotProposer": "only who has made proposal {proposal} can take it back",
    "ConsortiumBudget": "this institution has proposed as much as it may in one day (of UTC): try "
    "again tomorrow",
    "Expired": "the time that this had has passed, and nothing was done: give it again",
    "ConsortiumFull": "the consortium has as many members as it can have",
    "ConsortiumNoSuchProposal": "there is no proposal {proposal}: see `swarm contract members`",
    "ConsortiumProposalClosed": "proposal {proposal} is decided or has expired: see "
    "`swarm contract members`",
    "ConsortiumAlreadyVoted": "this institution has voted on proposal {proposal} already",
    "ConsortiumLastMember": "the last member cannot go",
    "ConsortiumLastValidator": "the last validator cannot go: let another one become active first",
    "PlanBadName": "the plan's name has {size} bytes: choose a shorter class name",
    "PlanBadRules": "the contract does not allow the plan's rules: see docs/protocol.md",
    "PlanTooMany": "this institution has as many open plans as it may: end one with "
    "`swarm plan stop`",
    "PlanUnknown": "there is no plan {plan}: see `swarm plan list`",
    "PlanEnded": "the plan has ended ({status}): propose it again with `swarm plan propose`",
    "PlanDigestMismatch": "the plan has the digest {expected}, not {given}: read it with "
    "`swarm plan show`",
    "PlanBadInvitation": "only members can be invited, at least as many as the plan needs, and for "
    "at most 90 days",
    "PlanNotInvited": "this institution was not invited: the plan is for others, and nobody waits "
    "for its answer",
    "ConsortiumBadProof": "the new node key has not signed that it is to be this member's",
    "PlanNotProposer": "before its first round only its proposer can stop a plan: decline it with "
    "`swarm plan decline`, or withdraw",
    "PlanAlreadyDeclined": "this institution has declined already",
    "PlanAlreadyConsented": "this institution has consented to the plan already",
    "PlanNotParticipant": "this institution takes no part in the plan: see `swarm plan list`",
    "RoundBadSamples": "{given} samples cannot be declared: this site has too few training "
    "rows for the plan, or claims too many",
}  # fmt: skip


def in_words(error: ContractError) -> ConfigurationError:
    """The same refusal for a person; one without words keeps the contract's own."""
    fields = {
        name: "0x" + value.hex() if isinstance(value, bytes) else value
        for name, value in error.arguments.items()
    }
    if error.name == "PlanEnded" and isinstance(fields.get("status"), int):
        fields["status"] = PlanStatus(int(str(fields["status"]))).name.lower()
    try:
        return ConfigurationError(_WORDS[error.name].format(**fields))
    except KeyError:
        return ConfigurationError(str(error))
