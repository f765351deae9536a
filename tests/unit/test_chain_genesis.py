from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from harness.chain import GENESIS_TIME_S, PROBE_BYTECODE, Member, calldata, found

from swarm.chain.block import InvalidTransaction
from swarm.chain.contract import call_data
from swarm.chain.engine import Engine
from swarm.chain.genesis import (
    Founder,
    Library,
    build_genesis_block,
    consortium_genesis,
    library_address,
    make_genesis,
    read_card,
    read_genesis,
    write_card,
    write_genesis,
)
from swarm.chain.rules import ChainRules
from swarm.errors import ConfigurationError
from swarm.types import NO_ADDRESS, Address

CARDS = [Member(number).card for number in range(4)]


def genesis_of(cards: list[Founder], bytecode: bytes = PROBE_BYTECODE):
    return make_genesis(cards, bytecode, GENESIS_TIME_S)


def test_every_founder_computes_the_same_genesis_from_the_cards_in_any_order():
    blocks = {
        build_genesis_block(genesis_of(list(cards)), ChainRules()).block
        for cards in itertools.permutations(CARDS[:3])
    }
    assert len(blocks) == 1


def test_the_chain_id_follows_from_the_genesis_and_fits_into_what_wallets_can_represent():
    ids = {genesis_of(CARDS[:n]).chain_id for n in range(1, 5)}
    assert len(ids) == 4
    assert all(chain_id > 0 and 2 * chain_id + 36 < 2**53 for chain_id in ids)


def test_network_addresses_do_not_change_the_chain():
    moved = [Founder(c.name, c.account, c.node, ("/ip4/10.0.0.1/tcp/4001",)) for c in CARDS]
    assert genesis_of(moved).digest == genesis_of(CARDS).digest


@pytest.mark.parametrize(
    "changed",
    [
        make_genesis(CARDS, PROBE_BYTECODE, GENESIS_TIME_S + 1),
        make_genesis(CARDS, PROBE_BYTECODE + b"\0", GENESIS_TIME_S),
        make_genesis(CARDS[:3], PROBE_BYTECODE, GENESIS_TIME_S),
        make_genesis(
            [*CARDS[:3], Founder("other", CARDS[3].account, CARDS[3].node)],
            PROBE_BYTECODE,
            GENESIS_TIME_S,
        ),
    ],
    ids=["time", "code", "founders", "name"],
)
def test_whatever_members_must_agree_on_changes_the_digest(changed):
    assert changed.digest != genesis_of(CARDS).digest


def test_the_network_file_gives_back_the_genesis(tmp_path: Path):
    genesis = genesis_of(CARDS)
    write_genesis(tmp_path / "network.json", genesis)
    assert read_genesis(tmp_path / "network.json") == genesis
    assert [path.name for path in tmp_path.iterdir()] == ["network.json"]


def test_a_card_survives_the_way_through_its_file(tmp_path: Path):
    card = Founder("Köln", CARDS[0].account, CARDS[1].node, ("/ip4/127.0.0.1/tcp/9",))
    write_card(tmp_path / "card.json", card)
    assert read_card(tmp_path / "card.json") == card


def edit(path: Path, **changes: object) -> Path:
    write_genesis(path, genesis_of(CARDS))
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return path


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"timestamp": GENESIS_TIME_S + 1}, "was changed after it was made"),
        ({"chain_id": 7}, "was changed after it was made"),
        ({"version": 1}, "reads version 2"),
        ({"bytecode": "0xzz"}, "non-hexadecimal"),
        ({"founders": []}, "0 founders"),
        ({"founders": "all"}, r"\$.founders"),
        ({"surprise": 1}, "surprise"),
        ({"digest": "0x00"}, "32 bytes"),
    ],
)
def test_a_network_file_that_contradicts_itself_is_refused(tmp_path: Path, changes, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        read_genesis(edit(tmp_path / "network.json", **changes))


def test_a_missing_or_unreadable_network_file_is_named(tmp_path: Path):
    with pytest.raises(ConfigurationError, match=r"nowhere\.json"):
        read_genesis(tmp_path / "nowhere.json")
    (tmp_path / "bad.json").write_bytes(b"\xff\xfe{")
    with pytest.raises(ConfigurationError, match=r"bad\.json"):
        read_genesis(tmp_path / "bad.json")


A, B = CARDS[0], CARDS[1]
A_KEYS, B_KEYS = (A.account, A.node), (B.account, B.node)


@pytest.mark.parametrize(
    ("cards", "complaint"),
    [
        ([], "0 founders"),
        ([A, A], "is on two cards"),
        ([A, Founder(A.name, B.account, B.node)], "the name .* is on two cards"),
        ([A, Founder("b", B.account, A.account)], "account or node .* is on two cards"),
        (
            [Founder("Charit\u00e9", *A_KEYS), Founder("Charite\u0301", *B_KEYS)],
            r"'Charite\\u0301' and 'Charit\\xe9' look alike",
        ),
        ([Founder("Kyoto", *A_KEYS), Founder("kyoto\ufe0f", *B_KEYS)], "look alike"),
        ([Founder("", A.account, A.node)], "cannot be seen"),
        ([Founder("x" * 65, A.account, A.node)], "cannot be seen"),
        ([Founder("a\nb", A.account, A.node)], "cannot be seen"),
        ([Founder(" a", A.account, A.node)], "space"),
        ([Founder("a", NO_ADDRESS, A.node)], "cannot be a member's account"),
        ([Founder("a", A.account, Address(b"\1"))], "cannot be a member's node"),
        ([Founder("a", A.account, A.node, ("/ip4/1.1.1.1/tcp/1",) * 9)], "at most 8"),
        ([Member(i).card for i in range(257)], "257 founders"),
    ],
)
def test_cards_that_cannot_found_a_consortium_together_are_refused(cards, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        genesis_of(cards)


def test_a_constructor_that_fails_is_a_configuration_error():
    with pytest.raises(ConfigurationError, match="cannot be created"):
        build_genesis_block(genesis_of(CARDS, bytes.fromhex("60006000fd")), ChainRules())


def test_the_largest_consortium_can_be_founded():
    genesis, members = found(256)
    outcome = build_genesis_block(genesis, ChainRules())
    assert outcome.block.height == 0
    assert len(members) == 256


def test_the_real_contract_founds_a_consortium_that_the_engine_understands(tmp_path: Path):
    with Engine.open(tmp_path, consortium_genesis(CARDS, GENESIS_TIME_S)) as engine:
        assert engine.validators() == tuple(card.node for card in CARDS)
        assert all(engine.is_member(card.account) for card in CARDS)
        assert not engine.is_member(Member(50).address)
        for view in ("getValidators()", "memberOf(address)"):
            arguments = (CARDS[0].account,) if "address" in view else ()
            result = engine.simulate(engine.contract, calldata(view, *arguments))
            assert result.depends_on, f"{view} has to be asked again after every block"


def test_both_keys_of_a_member_share_its_budget_of_the_day(tmp_path: Path):
    cards = [Founder(f"{n}", Member(n).address, Member(n + 10).address) for n in range(2)]
    genesis = consortium_genesis(cards, GENESIS_TIME_S)

    def say(number: int, size: int) -> bytes:
        return Member(number).sign(genesis.chain_id, "say(string)", "x" * size, gas=300_000)

    rules = ChainRules(member_day_bytes=5000)
    with Engine.open(tmp_path, genesis, rules) as engine:
        raws = [say(0, 3000), say(10, 3000), say(11, 3000), say(1, 3000)]
        block = engine.build(raws, GENESIS_TIME_S, cards[0].node)
        assert [t.sender for t in engine.content(block)[0]] == [cards[0].account, cards[1].node]
        engine.commit(block, b"certificate")
        assert engine.room_today(cards[0].account) == engine.room_today(cards[0].node) < 2000


def test_a_library_refuses_to_change_anything_but_the_contracts_storage(tmp_path: Path):
    member = CARDS[0].account
    with Engine.open(tmp_path, consortium_genesis(CARDS, GENESIS_TIME_S)) as engine:
        call = call_data("setStandby", Address(b"\x77" * 20))
        engine.call(engine.contract, call, member)
        library = library_address("Membership")
        assert engine.code(library)
        alone = engine.simulate(library, call, member)
        assert alone.failure == "execution reverted"
        assert alone.revert_data == b""
        with pytest.raises(InvalidTransaction, match="takes any here"):
            engine.inspect(Member(0).sign(engine.chain_id, nonce=0, to=library))


def test_a_genesis_names_its_libraries_and_keeps_them_in_its_file(tmp_path: Path):
    genesis = consortium_genesis(CARDS, GENESIS_TIME_S)
    assert [library.name for library in genesis.libraries] == [
        "MaskedRounds",
        "Membership",
        "Views",
    ]
    write_genesis(tmp_path / "network.json", genesis)
    assert read_genesis(tmp_path / "network.json") == genesis
    other = make_genesis(CARDS, genesis.bytecode, GENESIS_TIME_S, genesis.libraries[:2])
    assert other.digest != genesis.digest


@pytest.mark.parametrize(
    ("libraries", "words"),
    [
        ([Library("Views", b"")], "0 bytes"),
        ([Library("Views", b"\1"), Library("Views", b"\2")], "on two cards"),
        ([Library("no name", b"\1")], "is no library's name"),
        ([Library("A" * (n + 1), b"\1") for n in range(9)], "at most 8"),
    ],
)
def test_libraries_that_no_genesis_can_have_are_refused(libraries: list[Library], words: str):
    with pytest.raises(ConfigurationError, match=words):
        make_genesis(CARDS, PROBE_BYTECODE, GENESIS_TIME_S, libraries)
