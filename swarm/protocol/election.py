"""Who merges: a draw that nobody can steer towards themselves, and that moves on by time alone.

Each submitter reveals a secret that it committed to with its previous submission. When submission
closes, the revealed secrets are folded into a seed, and the seed orders those who revealed. The
leader of a moment follows from how long ago submission closed, so a dead leader is replaced without
any transaction: every node computes the same answer from the same frozen numbers.

Withholding a reveal leaves its owner ineligible. It can favour an accomplice by one bit, never
its owner (Boneh et al., "Commit-reveal and its last-revealer bias"; the blueprint, section 3).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from eth_hash.auto import keccak

from swarm.types import Address, Digest, MemberId

SEED_DOMAIN = keccak(b"swarm/round-seed/1")
HOLDER_DOMAIN = keccak(b"swarm/holder/1")
MAX_DOUBLINGS = 16


def secret_for(node_secret: bytes, plan: int, round: int, attempt: int) -> bytes:
    """The 32-byte secret that a node commits to in its submission to (plan, round, attempt).

    Derived from the node key by HMAC-SHA256, so a restarted node can still reveal what it
    committed to before. A consent commits to the secret of the place where the plan stands then:
    (plan, 0, 0) before the first round.
    """
    place = b"".join(n.to_bytes(8, "big") for n in (plan, round, attempt))
    return hmac.new(node_secret, b"swarm/commitment/1" + place, hashlib.sha256).digest()


def commitment_to(secret: bytes) -> Digest:
    """What is published first: keccak256 of the 32-byte secret."""
    return Digest(keccak(secret))


def reveal_term(account: Address, secret: bytes) -> int:
    """One submitter's share of the draw: keccak256(account, secret) as a number, XORed with the
    others' so that the order of submissions does not matter."""
    return int.from_bytes(keccak(account + secret), "big")


def round_seed(previous: bytes, reveals_xor: int) -> Digest:
    """keccak256(previous seed, domain, XOR of all reveal terms)."""
    return Digest(keccak(previous + SEED_DOMAIN + reveals_xor.to_bytes(32, "big")))


def slots_elapsed(elapsed_s: int, slot_s: int, eligible: int) -> int:
    """How many leader slots have passed `elapsed_s` seconds after submission closed.

    A cycle gives every eligible submitter one slot of `slot_s` seconds; each further cycle doubles
    the length (at most 2**16-fold), so a merge that needs longer than the first slot always gets
    its time in the end.
    """
    passed = 0
    for _ in range(MAX_DOUBLINGS):
        cycle_s = slot_s * eligible
        if elapsed_s < cycle_s:
            break
        elapsed_s -= cycle_s
        passed += eligible
        slot_s *= 2
    return passed + elapsed_s // slot_s


def slot_start(slots: int, slot_s: int, eligible: int) -> int:
    """Seconds after the close at which slot number `slots` begins: `slots_elapsed` inverted."""
    cycles, within = divmod(slots, eligible)
    doublings = min(cycles, MAX_DOUBLINGS)
    start_s = slot_s * eligible * ((1 << doublings) - 1)
    extra = (cycles - doublings) * eligible + within
    return start_s + extra * (slot_s << doublings)


def leader_of_slot(eligible: Sequence[MemberId], seed: bytes, slot: int) -> MemberId:
    """The leader of a slot: eligible[(seed + slot) mod n], `eligible` in member order."""
    return eligible[(int.from_bytes(seed, "big") + slot) % len(eligible)]


def holder_of(candidates: Sequence[MemberId], seed: bytes, number: int, attempt: int) -> MemberId:
    """Who of these holds a role in an attempt at a round: whose hash with the seed is the smallest.

    So nobody moves the draw among the others by coming or going (rendezvous hashing; Thaler and
    Ravishankar, "Using name-based mappings to increase hit rates", 1998). `seed` is the plan's:
    drawn at the close of the last final round, so that nobody can choose a moment of opening, or an
    attempt to void, that favours it more than by chance.
    """
    where = number.to_bytes(4, "big") + attempt.to_bytes(4, "big")
    place = keccak(seed + HOLDER_DOMAIN + where)
    return min(candidates, key=lambda member: keccak(place + member.to_bytes(1, "big")))
