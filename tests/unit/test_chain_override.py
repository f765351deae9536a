"""The signed override: who may sign it, where it belongs, and what it changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from harness.chain import GENESIS_TIME_S, Member

from swarm.chain.engine import Engine
from swarm.chain.genesis import consortium_genesis
from swarm.chain.messages import Certificate, Commit, encode
from swarm.chain.override import Override, SignedOverride, read_override, write_override
from swarm.chain.service import VOTE_KEY
from swarm.chain.signer import NodeKeys
from swarm.chain.startup import VoteRecord, decode_record, encode_record
from swarm.chain.store import VoteStore
from swarm.errors import ConfigurationError
from swarm.node.chain.override_command import apply_override, describe, prepare_signature
from swarm.node.home.setup import create_node, found_network, install_network
from swarm.types import Address, Digest

MEMBERS = [Member(number) for number in range(5)]
GENESIS = consortium_genesis([m.card for m in MEMBERS], GENESIS_TIME_S)
NODES = tuple(member.address for member in MEMBERS)
Change = Callable[[Override], Override]


def signed_by(override: Override, *numbers: int) -> SignedOverride:
    signed = SignedOverride(override, ())
    for number in numbers:
        signed = signed.signed_by(NodeKeys(Member(number).secret))
    return signed


@pytest.fixture
def override(tmp_path: Path) -> Override:
    """At block 1, without members 3 and 4."""
    with Engine.open(tmp_path / "chain", GENESIS) as engine:
        return Override(engine.genesis_hash, 1, engine.head.hash, NODES[:3])


def opened(tmp_path: Path, signed: SignedOverride) -> tuple[tuple[Address, ...], Digest]:
    with Engine.open(tmp_path / "chain", GENESIS, overrides=[signed]) as engine:
        return engine.validators(), engine.vote_domain()


def test_more_than_half_of_the_members_take_lost_validators_away(
    tmp_path: Path, override: Override
) -> None:
    assert opened(tmp_path, signed_by(override, 0, 1, 2)) == (NODES[:3], override.digest)


def test_two_of_five_one_of_them_twice_and_a_stranger_are_not_enough(
    tmp_path: Path, override: Override
) -> None:
    signed = signed_by(override, 0, 1, 77)
    signed = replace(signed, signatures=(*signed.signatures, signed.signatures[0], b"\1" * 65))
    with pytest.raises(ConfigurationError, match="site 000, site 001: 3 of the 5"):
        opened(tmp_path, signed)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda o: replace(o, genesis=Digest(bytes(32))), "is for the chain that begins"),
        (lambda o: replace(o, parent=Digest(bytes(32))), "but this chain has"),
        (lambda o: replace(o, validators=NODES), "some, but not all"),
        (lambda o: replace(o, validators=()), "some, but not all"),
        (lambda o: replace(o, validators=(*NODES[:2], Member(9).address)), "some, but not all"),
    ],
)
def test_an_override_that_does_not_belong_here_is_refused(
    tmp_path: Path, override: Override, change: Change, words: str
) -> None:
    with pytest.raises(ConfigurationError, match=words):
        opened(tmp_path, signed_by(change(override), 0, 1, 2))


def test_a_signature_for_one_override_is_none_for_another(
    tmp_path: Path, override: Override
) -> None:
    other = signed_by(replace(override, validators=NODES[:2]), 0, 1, 2)
    with pytest.raises(ConfigurationError, match="signed by nobody"):
        opened(tmp_path, SignedOverride(override, other.signatures))


def test_one_that_lies_ahead_changes_nothing_yet(tmp_path: Path, override: Override) -> None:
    ahead = replace(override, height=7)
    assert opened(tmp_path, signed_by(ahead)) == (NODES, override.genesis)


def test_a_file_says_what_was_written(tmp_path: Path, override: Override) -> None:
    path = tmp_path / "override.json"
    write_override(path, signed_by(override, 0, 1))
    assert read_override(path) == signed_by(override, 0, 1)
    path.write_text(path.read_text().replace('"height": 1', '"height": -1'))
    with pytest.raises(ConfigurationError, match="is no override"):
        read_override(path)


def test_a_chain_that_went_on_without_it_is_not_taken_over_by_it(
    tmp_path: Path, override: Override
) -> None:
    with Engine.open(tmp_path / "chain", GENESIS) as engine:
        block = engine.build([], engine.head.timestamp, NODES[4])
        engine.commit(block, encode(Certificate(1, 0, block.hash, (b"\1" * 65,) * 4)))
    with pytest.raises(ConfigurationError, match="block 1 was decided here without the override"):
        opened(tmp_path, signed_by(override, 0, 1, 2))


# As operators do it.


@pytest.fixture
def homes(tmp_path: Path) -> list[Path]:
    """Three nodes that start unattended; the validators are A, B and C."""
    homes = [tmp_path / name for name in "ABC"]
    cards = [create_node(home, home.name, password=None) for home in homes]
    for home in homes:
        install_network(home, found_network(cards, GENESIS_TIME_S))
    return homes


def sign(home: Path, file: Path, *without: str) -> tuple[int, int]:
    with prepare_signature(home, file, without) as prepared:
        assert describe(prepared.proposed, prepared.members).endswith("only A, B decide")
        return prepared.sign()


def test_operators_sign_in_turn_and_give_the_file_to_every_node(
    homes: list[Path], tmp_path: Path
) -> None:
    file = tmp_path / "override.json"
    assert sign(homes[0], file, "C") == (1, 2)
    with pytest.raises(ConfigurationError, match="signed by A: 2 of the 3"):
        apply_override(homes[0], file)
    assert not (homes[0] / "overrides").exists()
    assert sign(homes[1], file) == (2, 2)
    for home in homes:
        assert apply_override(home, file) == "from block 1 on 2 decide; start it now"
        votes = VoteStore(home / "chain" / "votes.db")
        assert decode_record(votes.get(VOTE_KEY) or b"").recovered
        votes.close()
    with pytest.raises(ConfigurationError, match="has an override there already"):
        apply_override(homes[0], file)


def test_a_node_signs_only_for_its_own_next_block_and_only_what_the_file_says(
    homes: list[Path], tmp_path: Path
) -> None:
    file = tmp_path / "override.json"
    with pytest.raises(ConfigurationError, match="does not exist: name who is lost"):
        sign(homes[0], file)
    with pytest.raises(ConfigurationError, match="no member is called Z; there are: A, B, C"):
        sign(homes[0], file, "Z")
    sign(homes[0], file, "C")
    with pytest.raises(ConfigurationError, match="says something else"):
        sign(homes[1], file, "B")
    stale = read_override(file)
    write_override(file, replace(stale, override=replace(stale.override, height=2)))
    with pytest.raises(ConfigurationError, match="the last block here is 0"):
        sign(homes[1], file)


def test_an_operator_is_warned_of_a_block_that_the_lost_may_have_decided(
    homes: list[Path], tmp_path: Path
) -> None:
    commit = Commit(1, 0, b"\7" * 32, b"\1" * 65)
    votes = VoteStore(homes[0] / "chain" / "votes.db")
    votes.put(VOTE_KEY, encode_record(VoteRecord(height=1, commit=commit)))
    votes.close()
    with prepare_signature(homes[0], tmp_path / "override.json", ["C"]) as prepared:
        assert "those who are gone may have decided it" in prepared.warnings[0]


def test_an_operator_is_warned_by_name_of_an_override_that_contradicts_what_was_signed(
    homes: list[Path], tmp_path: Path
) -> None:
    sign(homes[0], tmp_path / "without C.json", "C")
    sign(homes[0], tmp_path / "without C.json")  # the same again is no contradiction
    with prepare_signature(homes[0], tmp_path / "without B.json", ["B"]) as prepared:
        (warning,) = prepared.warnings
        assert "another override, signed by A:" in warning
        assert "only A, B decide" in warning
        assert "signed both" not in warning
        prepared.sign()
    # B is shown both files: A's two signatures are named.
    with prepare_signature(homes[1], tmp_path / "without C.json", []) as prepared:
        assert prepared.warnings == []
        prepared.sign()
    with prepare_signature(homes[1], tmp_path / "without B.json", []) as prepared:
        (warning,) = prepared.warnings
        assert "signed by A, B: " in warning
        assert warning.endswith("A signed both")
