"""Keys, shares and envelopes of masked rounds: what is bound to what, and what a cheat gains."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.privacy import shares
from swarm.privacy.derivation import (
    CODE,
    PAIR,
    Occasion,
    Party,
    pair_code,
    pair_key,
    public_key,
    self_key,
)
from swarm.privacy.envelope import (
    EPOCHS,
    NO_KEY,
    Dealer,
    Shape,
    open_shares,
    read_commitments,
    seal,
)
from swarm.privacy.shares import Dealing, combine, deal, is_good, threshold
from swarm.types import Digest

HERE = Occasion(Digest(b"g" * 32), 3, 5, 1, 0, 0b1011)
LOW_ORDER = (bytes(32), (1).to_bytes(32, "little"))


def entropy(seed: int) -> shares.Entropy:
    return random.Random(seed).randbytes


def secret(n: int) -> bytes:
    return bytes([n + 1]) * 32


def party(n: int) -> Party:
    return Party(n, public_key(secret(n)))


def key(occasion: Occasion, me: int, other: Party, purpose: bytes = PAIR) -> bytes:
    return pair_key(occasion, party(me), secret(me), other, purpose)


def test_both_of_a_pair_derive_one_key() -> None:
    assert key(HERE, 0, party(1)) == key(HERE, 1, party(0))


OTHERS = [
    replace(HERE, genesis=Digest(b"h" * 32)),
    replace(HERE, plan=4),
    replace(HERE, round=6),
    replace(HERE, attempt=2),
    replace(HERE, epoch=1),
    replace(HERE, contributors=0b0011),
]


def test_a_key_is_for_one_occasion_one_pair_and_one_purpose() -> None:
    keys = [key(each, 0, party(1)) for each in (HERE, *OTHERS)]
    keys += [key(HERE, 0, party(3)), key(HERE, 1, party(3)), key(HERE, 0, party(1), CODE)]
    keys += [self_key(each, 0, party(0).public, secret(7)) for each in (HERE, *OTHERS)]
    keys += [self_key(HERE, 1, party(0).public, secret(7))]
    assert len(set(keys)) == len(keys)


def test_who_copies_a_public_key_shares_no_mask_with_anybody() -> None:
    """Member 2 shows member 0's key as its own: its id in the info makes another mask of it."""
    copy = Party(2, party(0).public)
    assert key(HERE, 1, copy) != key(HERE, 1, party(0))


@pytest.mark.parametrize("low", LOW_ORDER)
def test_a_public_key_of_low_order_crashes_nobody(low: bytes) -> None:
    cheat = Party(2, low)
    assert key(HERE, 0, cheat) != key(HERE, 1, cheat)  # what it can compute; others go on


def test_a_code_is_over_poster_epoch_and_masked_update() -> None:
    shared, masked = key(HERE, 0, party(1), CODE), Digest(b"y" * 32)
    said = [pair_code(shared, 0, 0, masked), pair_code(shared, 1, 0, masked)]
    said += [pair_code(shared, 0, 1, masked), pair_code(shared, 0, 0, Digest(b"z" * 32))]
    assert len(set(said)) == 4


# Shares.


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 9), st.data())
def test_any_so_many_shares_give_the_secret_and_one_less_does_not(
    members: int, data: st.DataObject
) -> None:
    needed = data.draw(st.integers(2, members))
    made = deal(range(members), needed, entropy(data.draw(st.integers(0, 99))))
    chosen = data.draw(st.permutations(range(members)))[:needed]
    held = {m: made.shares[m] for m in chosen}
    assert all(is_good(share, m, made.commitments) for m, share in held.items())
    assert combine(held) == made.secret
    held.popitem()
    assert combine(held) != made.secret
    assert shares.commitment_of(made.secret) == made.commitments[0]


def test_a_wrong_share_is_found_whatever_it_is() -> None:
    made = deal(range(4), 3, entropy(1))
    good = made.shares[2]
    off = (int.from_bytes(good, "big") + 1).to_bytes(32, "big")
    for bad in (off, made.shares[1], bytes(32), b"\xff" * 32, b"", good + b"\0"):
        assert not is_good(bad, 2, made.commitments)
    assert not is_good(good, 3, made.commitments)


def test_commitments_that_are_no_points_make_every_share_bad() -> None:
    made = deal(range(4), 3, entropy(1))
    points = list(made.commitments)
    for bad in (bytes(33), b"\x02" + b"\xff" * 32, b""):
        assert not is_good(made.shares[0], 0, [points[0], bad, points[2]])


def test_commitments_that_cancel_make_every_share_bad() -> None:
    """A dealer may choose them so that a sum on the way is the point at infinity."""
    point = deal(range(2), 1, entropy(1)).commitments[0]
    negated = bytes([point[0] ^ 1]) + point[1:]
    assert not is_good(b"\1" * 32, 0, [negated, point])


@pytest.mark.parametrize("members", range(2, 22))
def test_two_sets_that_open_share_more_than_the_colluders(members: int) -> None:
    """Two thresholds overlap in more than c, so an honest member would have opened two sets."""
    for colluders in range(members - 1):
        assert 2 * threshold(members, colluders) - members > colluders


def test_four_members_bear_one_that_is_missing_and_three_bear_none() -> None:
    assert (threshold(4, 1), threshold(3, 1), threshold(3, 0), threshold(7, 2)) == (3, 3, 2, 5)


# Envelopes.

ROSTER = tuple(Party(n, public_key(secret(10 + n))) for n in (0, 1, 3))
SHAPE = Shape(replace(HERE, contributors=0b1011), ROSTER, 2)


def dealt(seed: int = 0) -> list[Dealing]:
    return [deal([p.member for p in ROSTER], SHAPE.needed, entropy(seed + e)) for e in range(3)]


def enveloped(dealer: int = 1, seed: int = 0) -> tuple[Dealer, bytes, list[Dealing]]:
    made = dealt(seed)
    known = Dealer(party(dealer), tuple(each.commitments[0] for each in made))
    return known, seal(SHAPE, party(dealer), secret(dealer), made), made


def opened(dealer: Dealer, envelope: bytes, n: int, shape: Shape = SHAPE) -> tuple[bytes, ...]:
    return open_shares(shape, dealer, ROSTER[n], secret(10 + ROSTER[n].member), envelope)


def test_every_recipient_opens_its_shares_of_every_epoch() -> None:
    dealer, envelope, made = enveloped()
    for n, recipient in enumerate(ROSTER):
        found = opened(dealer, envelope, n)
        assert list(found) == [each.shares[recipient.member] for each in made]
    assert len(read_commitments(SHAPE, dealer, envelope)) == EPOCHS


def test_nothing_is_sealed_to_a_member_without_a_key() -> None:
    """What two keys agree on is known to everybody where one of them is zero."""
    without = replace(SHAPE, roster=(*ROSTER[:2], Party(3, NO_KEY)))
    made = dealt()
    known = Dealer(party(1), tuple(each.commitments[0] for each in made))
    envelope = seal(without, party(1), secret(1), made)
    assert len(envelope) == without.size
    assert envelope.endswith(bytes(EPOCHS * 32 + 16))
    found = open_shares(without, known, ROSTER[0], secret(10), envelope)
    assert list(found) == [each.shares[0] for each in made]


def test_a_copied_envelope_opens_nowhere() -> None:
    """Member 3 copies member 1's envelope, key and first commitments: it is another dealer."""
    dealer, envelope, _ = enveloped(1)
    copied = Dealer(Party(3, dealer.party.public), dealer.first)
    for n in range(3):
        with pytest.raises(ValueError, match="not sealed to"):
            opened(copied, envelope, n)


def test_an_envelope_of_another_attempt_opens_nowhere() -> None:
    dealer, envelope, _ = enveloped()
    later = replace(SHAPE, occasion=replace(SHAPE.occasion, attempt=2))
    with pytest.raises(ValueError, match="not sealed to"):
        opened(dealer, envelope, 0, later)


def test_shares_moved_to_another_place_open_nowhere() -> None:
    dealer, envelope, _ = enveloped()
    size = 3 * 32 + 16
    swapped = envelope[: -3 * size] + envelope[-2 * size : -size] + envelope[-3 * size : -2 * size]
    with pytest.raises(ValueError, match="not sealed to"):
        opened(dealer, swapped + envelope[-size:], 0)


def test_an_envelope_with_other_first_commitments_than_the_chain_is_refused() -> None:
    dealer, envelope, _ = enveloped()
    other, _, _ = enveloped(1, seed=50)
    with pytest.raises(ValueError, match="another secret of epoch 0"):
        opened(replace(dealer, first=other.first), envelope, 0)


@pytest.mark.parametrize("size", [0, 16, -1])
def test_an_envelope_of_another_size_is_refused(size: int) -> None:
    dealer, envelope, _ = enveloped()
    with pytest.raises(ValueError, match="no envelope"):
        opened(dealer, envelope[:size], 0)


def test_a_dealer_that_seals_a_wrong_share_is_found_by_its_recipient_alone() -> None:
    made = dealt()
    shares_of = dict(made[1].shares) | {3: made[1].shares[0]}
    made[1] = replace(made[1], shares=shares_of)
    dealer = Dealer(party(1), tuple(each.commitments[0] for each in made))
    envelope = seal(SHAPE, party(1), secret(1), made)
    assert opened(dealer, envelope, 0)
    with pytest.raises(ValueError, match="share of epoch 1"):
        opened(dealer, envelope, 2)


def test_no_bit_of_an_envelope_may_change() -> None:
    dealer, envelope, _ = enveloped()
    rng = random.Random(1)
    mine = range(len(envelope) - 3 * 112, len(envelope) - 2 * 112)
    for at in itertools.chain(rng.sample(range(16, len(envelope) - 336), 30), list(mine)[::9]):
        changed = bytearray(envelope)
        changed[at] ^= 1 << rng.randrange(8)
        with pytest.raises(ValueError):
            opened(dealer, bytes(changed), 0)
