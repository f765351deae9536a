"""The referee of masked rounds on leaks made by hand: it finds each, and nothing where none is."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest
from harness.eavesdropper import Eavesdroppers, Keystreams, Knowledge
from harness.simnet import Violation
from hypothesis import given
from hypothesis import strategies as st

UPDATES = {f"x{i}" for i in range(4)}
FOUR = range(4)


def masked(i: int, contributors: Iterable[int], epoch: object = 0, seed: object = None) -> dict:
    """What member `i` shows: its update, the masks of its pairs, its self mask."""
    row: dict[object, int] = {f"x{i}": 1, ("self", epoch if seed is None else seed, i): 1}
    for j in contributors:
        if j != i:
            row["pair", epoch, *sorted((i, j))] = 1 if i < j else -1
    return row


def watched(colluders: int = 1, members: Iterable[int] = FOUR) -> Eavesdroppers:
    ears = Eavesdroppers(members, colluders)
    for i in members:
        ears.make_update(i, f"x{i}")
        ears.tell(i, f"receiving {i}")
    return ears


def share_out(ears: Eavesdroppers, epochs: Iterable[object], threshold: int) -> None:
    for owner, holder, epoch in itertools.product(FOUR, FOUR, epochs):
        ears.derive(("self", epoch, owner), ("seed", epoch, owner))
        ears.seal_share(f"receiving {holder}", ("seed", epoch, owner), holder, threshold)


def know_own_masks(ears: Eavesdroppers, contributors: list[int], epoch: object = 0) -> None:
    for i, j in itertools.combinations(sorted(contributors), 2):
        ears.derive(("pair", epoch, i, j), f"key {i}", f"key {j}")
    for i in contributors:
        ears.tell(i, f"key {i}")


def show(ears: Eavesdroppers, contributors: list[int], epoch: object = 0, **more: object) -> None:
    know_own_masks(ears, contributors, epoch)
    for i in contributors:
        ears.publish(masked(i, contributors, epoch, **more))


def reveal(ears: Eavesdroppers, owners: Iterable[int], epoch: object = 0) -> None:
    for i in owners:
        ears.publish({("self", epoch, i): 1})


def publish_shares(
    ears: Eavesdroppers, index: int, owners: Iterable[int], epoch: object, threshold: int
) -> None:
    for owner in owners:
        ears.publish_share(("seed", epoch, owner), index, threshold)


def test_a_locked_round_gives_its_sum_and_nothing_else() -> None:
    ears = watched()
    show(ears, [0, 1, 2, 3])
    ears.lock(UPDATES)
    reveal(ears, FOUR)
    reader = ears.coalitions[0]
    assert list(reader.known.of_updates()) != []
    assert reader.known.implies(dict.fromkeys(UPDATES, 1))
    assert not reader.known.implies({"x0": 1})


def test_masked_updates_alone_tell_nothing() -> None:
    ears = watched()
    show(ears, [0, 1, 2, 3])
    assert all(not list(c.known.of_updates()) for c in ears.coalitions if not c.members)


def test_self_masks_revealed_before_the_lock_are_a_leak() -> None:
    ears = watched()
    show(ears, [0, 1, 2, 3])
    with pytest.raises(Violation, match="no locked sum"):
        reveal(ears, FOUR)


def test_a_second_set_that_is_opened_isolates_who_left() -> None:
    ears = watched()
    show(ears, [0, 1, 2, 3], "a")
    show(ears, [0, 1, 2], "b")
    ears.lock(UPDATES)
    reveal(ears, FOUR, "a")
    with pytest.raises(Violation, match="no locked sum"):
        reveal(ears, [0, 1, 2], "b")


def test_one_seed_for_all_epochs_opens_those_who_were_left_behind() -> None:
    ears = watched()
    show(ears, [0, 1, 2, 3], 0, seed="both")
    show(ears, [0, 1, 2], 1, seed="both")
    ears.lock({"x0", "x1", "x2"})
    with pytest.raises(Violation, match="no locked sum"):
        reveal(ears, FOUR, "both")


def test_one_seed_for_all_epochs_is_found_though_only_contributors_are_opened() -> None:
    ears = watched(0)
    show(ears, [0, 1, 2, 3], 0, seed="both")
    show(ears, [0, 1, 2], 1, seed="both")
    ears.lock({"x0", "x1", "x2"})
    reveal(ears, [0, 1, 2], "both")  # x3 stays hidden; what is known is the sum of the others
    assert not ears.coalitions[0].known.implies({"x3": 1})


def test_a_copied_key_cancels_two_masks_where_keys_do_not_belong_to_owners() -> None:
    ears = watched(1, [0, 1, 2])
    # Member 2 copied member 0's key: 1 has one key with both, added once and taken away once.
    ears.publish({"x1": 1, ("self", 0, 1): 1, "key(0,1)": -1 + 1})
    ears.lock({"x0", "x1", "x2"})
    with pytest.raises(Violation, match=r"n2|a reader"):
        reveal(ears, [1])


def test_shares_open_a_mask_from_the_threshold_on_and_not_before() -> None:
    ears = watched()
    for i in FOUR:
        ears.publish(masked(i, FOUR))
    know_own_masks(ears, [0, 1, 2, 3])
    share_out(ears, [0], threshold=3)
    publish_shares(ears, 0, FOUR, 0, threshold=3)
    publish_shares(ears, 0, FOUR, 0, threshold=3)  # the same ones again
    with pytest.raises(Violation, match="no locked sum"):
        publish_shares(ears, 1, FOUR, 0, threshold=3)


def test_half_as_a_threshold_lets_two_sets_be_opened_on_a_fork() -> None:
    """Four members, one liar: with a threshold of two, each side of a fork opens another set."""
    ears = watched(1)
    show(ears, [0, 1, 2, 3], 0)
    show(ears, [0, 1, 3], 1)
    share_out(ears, [0, 1], threshold=2)
    ears.lock(UPDATES)
    publish_shares(ears, 2, FOUR, 0, threshold=2)
    with pytest.raises(Violation, match="n3"):
        publish_shares(ears, 0, [0, 1, 3], 1, threshold=2)


def test_of_two_sets_locked_on_a_fork_either_may_come_out_but_not_both() -> None:
    ears = watched(0)
    show(ears, [0, 1, 2, 3], "a")
    show(ears, [0, 1, 2], "b")
    ears.lock(UPDATES, "this base")
    ears.lock(UPDATES - {"x3"}, "this base")
    reveal(ears, [0, 1, 2], "b")
    with pytest.raises(Violation, match="no locked sum"):
        reveal(ears, FOUR, "a")


def test_keys_that_are_stolen_later_open_what_was_recorded() -> None:
    ears = watched(0)
    share_out(ears, [0], threshold=3)
    show(ears, [0, 1, 2, 3])
    ears.lock(UPDATES)
    reveal(ears, FOUR)
    ears.publish_secret("receiving 1")
    with pytest.raises(Violation, match="no locked sum"):
        ears.publish_secret("key 1")


def test_a_stolen_update_is_no_fault_of_the_protocol() -> None:
    ears = watched()
    show(ears, [0, 1, 2, 3])
    ears.lose("x2")
    ears.lock(UPDATES)
    reveal(ears, FOUR)


def test_bits_that_leak_only_in_the_ring_are_found() -> None:
    """Over a prime field nothing follows from these; 2³¹ times their difference is x's last bit."""
    known = Knowledge({"x"})
    known.learn({"x": 1, "a": 1, "b": 1})
    known.learn({"a": 1, "b": -1})
    assert list(known.of_updates()) == [{"x": -(2**31)}]


def test_what_is_known_twice_over_is_not_known_whole() -> None:
    known = Knowledge({"x"})
    known.learn({"x": 1, "a": 1})
    known.learn({"a": 2})
    assert known.implies({"x": 2})
    assert not known.implies({"x": 1})


def brute_force(rows: list[dict[str, int]], bits: int) -> set[tuple[int, int]]:
    """All combinations of x and y alone over Z/2^bits, by trying every combination."""
    found = set()
    for factors in itertools.product(range(1 << bits), repeat=len(rows)):
        total = {
            u: sum(f * r.get(u, 0) for f, r in zip(factors, rows, strict=True)) % (1 << bits)
            for u in "abxy"
        }
        if not total["a"] and not total["b"]:
            found.add((total["x"], total["y"]))
    return found


@given(
    st.lists(st.fixed_dictionaries({u: st.integers(0, 7) for u in "abxy"}), min_size=1, max_size=3)
)
def test_elimination_finds_what_trying_everything_finds(rows: list[dict[str, int]]) -> None:
    """In Z/8, which Z/2³² contains as the multiples of 2²⁹."""
    step = 2**29
    known = Knowledge({"x", "y"})
    for row in rows:
        known.learn({u: v * step for u, v in row.items()})
    expected = brute_force(rows, 3)
    for x, y in itertools.product(range(8), repeat=2):
        spanned = Knowledge()
        for row in known.of_updates():
            spanned.learn(row)
        assert spanned.implies({"x": x * step, "y": y * step}) == ((x, y) in expected)


def test_one_keystream_meets_one_input() -> None:
    streams = Keystreams()
    streams.use(1, "key", "x1")
    streams.use(2, "key", "x2")  # the other of the pair
    streams.use(1, "key", "x1")  # the same again, after a restart
    with pytest.raises(Violation, match="both x1 and another rounding of x1"):
        streams.use(1, "key", "another rounding of x1")
