from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import rlp
from eth.db.trie import make_trie_root_and_nodes
from eth.vm.forks.london.blocks import LondonBlock
from eth.vm.forks.london.transactions import LondonTransactionBuilder
from eth_abi.abi import decode
from eth_keys.main import KeyAPI
from harness.chain import GENESIS_TIME_S, Member, calldata, found

from swarm.chain import evm
from swarm.chain.block import Block, InvalidBlock, InvalidTransaction
from swarm.chain.codec import decode_transaction
from swarm.chain.engine import CallFailed, Engine
from swarm.chain.genesis import CONTRACT_ADDRESS
from swarm.chain.rules import ChainRules
from swarm.errors import ChainError, ConfigurationError, ProtocolViolation
from swarm.types import Address, to_hex

GENESIS, MEMBERS = found(4)
CHAIN_ID = GENESIS.chain_id
ANN, BEN, CLEO, DAN = (member.address for member in MEMBERS)
STRANGER = Member(99)


def fresh_members() -> list[Member]:
    return [Member(number) for number in range(4)]


@pytest.fixture
def members() -> list[Member]:
    return fresh_members()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine.open(tmp_path / "one", GENESIS) as engine:
        yield engine


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Engine]:
    with Engine.open(tmp_path / "two", GENESIS) as engine:
        yield engine


def commit(engine: Engine, *raws: bytes, seconds: int = 1, proposer: Address = ANN) -> Block:
    block = engine.build(raws, engine.head.timestamp + seconds, proposer)
    engine.execute(block)
    engine.commit(block, b"certificate %d" % block.height)
    return block


def count(engine: Engine) -> int:
    return int.from_bytes(engine.call(engine.contract, calldata("count()")), "big")


def numbers(engine: Engine, signature: str, *arguments: object, **where: object) -> tuple[int, ...]:
    output = engine.call(engine.contract, calldata(signature, *arguments), **where)  # type: ignore[arg-type]
    return tuple(int.from_bytes(output[i : i + 32], "big") for i in range(0, len(output), 32))


def test_a_new_chain_holds_the_contract_and_the_founders(engine):
    assert engine.head.height == 0
    assert engine.head.hash == engine.genesis_hash
    assert engine.validators() == (ANN, BEN, CLEO, DAN)
    assert engine.is_member(BEN)
    assert not engine.is_member(STRANGER.address)
    assert numbers(engine, "born()") == (GENESIS_TIME_S,)


def test_a_block_built_by_one_is_valid_for_the_other(engine, other, members):
    raws = [members[i % 4].sign(CHAIN_ID) for i in range(8)]
    block = engine.build(raws, GENESIS_TIME_S + 5, BEN)
    copy = other.decode(block.payload)
    assert copy == block
    for replica in (engine, other):
        replica.execute(copy)
        replica.commit(copy, b"certificate")
        assert replica.head == block
        assert count(replica) == 8


def test_the_chain_goes_on_after_a_restart(tmp_path, members):
    with Engine.open(tmp_path, GENESIS) as engine:
        commit(engine, members[0].sign(CHAIN_ID))
        block = commit(engine, members[0].sign(CHAIN_ID))
    with Engine.open(tmp_path, GENESIS) as engine:
        assert engine.head == block
        assert engine.certificate(2) == b"certificate 2"
        assert engine.block(1).hash == block.parent
        commit(engine, members[0].sign(CHAIN_ID))
        assert count(engine) == 3


def test_one_bad_transaction_does_not_abort_the_batch(engine, members):
    good = members[0].sign(CHAIN_ID)
    batch = [b"garbage", members[1].sign(CHAIN_ID, nonce=7), STRANGER.sign(CHAIN_ID, nonce=0), good]
    block = commit(engine, *batch)
    assert len(engine.transactions(block)) == 1
    assert count(engine) == 1


def test_a_transaction_that_reverts_is_in_the_block_and_uses_its_nonce(engine, members):
    block = commit(engine, members[0].sign(CHAIN_ID, "say(string)", "no"))
    assert len(engine.transactions(block)) == 1
    assert engine.nonce(ANN) == 1


def test_blocks_may_share_a_second_but_not_go_back_in_time(engine, members):
    commit(engine, members[0].sign(CHAIN_ID), seconds=0)
    assert engine.head.timestamp == GENESIS_TIME_S
    early = engine.build([], 5, ANN)
    assert early.timestamp == GENESIS_TIME_S
    with pytest.raises(InvalidBlock, match="before its parent"):
        engine.execute(rewrite(engine, early, timestamp=GENESIS_TIME_S - 1))


def test_the_base_fee_stays_zero_after_a_full_block(engine, members):
    commit(engine, *(m.sign(CHAIN_ID, "burn()", gas=1_000_000) for m in members))
    commit(engine, members[0].sign(CHAIN_ID))
    header = rlp.decode(engine.head.payload, LondonBlock).header
    assert (header.base_fee_per_gas, header.difficulty) == (0, 0)


def rewrite(engine: Engine, block: Block, **header_fields: object) -> Block:
    """The block with another header, and everything else consistent with it."""
    decoded = rlp.decode(block.payload, LondonBlock)
    changed = decoded.copy(header=decoded.header.copy(**header_fields))
    return engine.decode(rlp.encode(changed))


@pytest.mark.parametrize(
    "fields",
    [
        {"state_root": bytes(32)},
        {"receipt_root": bytes(32)},
        {"gas_used": 1},
        {"gas_limit": 6_000_000},
        {"bloom": 1},
        {"difficulty": 1},
        {"extra_data": b"x"},
        {"mix_hash": b"\1" * 32},
        {"nonce": b"\1" * 8},
        {"base_fee_per_gas": 1},
        {"coinbase": STRANGER.address},
        {"parent_hash": b"\1" * 32},
        {"block_number": 3},
    ],
    ids=str,
)
def test_a_header_that_does_not_follow_from_its_block_is_refused(engine, members, fields):
    block = engine.build([members[0].sign(CHAIN_ID)], GENESIS_TIME_S + 1, ANN)
    with pytest.raises(InvalidBlock):
        engine.execute(rewrite(engine, block, **fields))
    assert engine.head.height == 0


def test_a_body_other_than_the_headers_is_refused_when_it_is_read(engine, members):
    one = engine.build([members[0].sign(CHAIN_ID)], GENESIS_TIME_S + 1, ANN)
    two = engine.build([members[1].sign(CHAIN_ID)], GENESIS_TIME_S + 1, ANN)
    mixed = rlp.decode(one.payload, LondonBlock).copy(
        transactions=rlp.decode(two.payload, LondonBlock).transactions
    )
    with pytest.raises(ProtocolViolation, match="not those of its header"):
        engine.decode(rlp.encode(mixed))
    with pytest.raises(InvalidBlock):
        engine.execute(replace(one, payload=rlp.encode(mixed)))


def bad_transactions() -> dict[str, bytes]:
    def sign(*arguments: object, **fields: object) -> bytes:
        return MEMBERS[0].sign(CHAIN_ID, *arguments, nonce=0, **fields)  # type: ignore[arg-type]

    unprotected = LondonTransactionBuilder.create_unsigned_transaction(
        nonce=0, gas_price=0, gas=200_000, to=CONTRACT_ADDRESS, value=0, data=b""
    ).as_signed_transaction(KeyAPI.PrivateKey(MEMBERS[0].secret))
    return {
        "another chain": MEMBERS[0].sign(CHAIN_ID + 1, nonce=0),
        "no replay protection": unprotected.encode(),
        "another contract": sign(to="0x" + "11" * 20),
        "creation": sign(to=b""),
        "value": sign(value=1),
        "too much gas": sign(gas=1_000_001),
        "too little gas": sign(gas=21_000),
        "calldata": sign("note(bytes)", b"x" * 33_000, gas=1_000_000),
        "a later nonce": MEMBERS[0].sign(CHAIN_ID, nonce=1),
        "a stranger": STRANGER.sign(CHAIN_ID, nonce=0),
    }


BAD = bad_transactions()


def strict(engine: Engine, raws: list[bytes]) -> None:
    """Execute a block that contains exactly these transactions, as a careless proposer would."""
    header = rlp.decode(engine.build([], GENESIS_TIME_S + 1, ANN).payload, LondonBlock).header
    decoded = [decode_transaction(raw) for raw in raws]
    root, _ = make_trie_root_and_nodes(decoded)
    block = LondonBlock(header.copy(transaction_root=root), decoded, [])
    engine.execute(engine.decode(rlp.encode(block)))


@pytest.mark.parametrize("kind", BAD)
def test_a_block_with_a_forbidden_transaction_is_invalid_and_none_is_built(engine, kind):
    with pytest.raises(InvalidBlock):
        strict(engine, [BAD[kind]])
    assert engine.transactions(engine.build([BAD[kind]], GENESIS_TIME_S + 1, ANN)) == ()


@pytest.mark.parametrize("kind", [kind for kind in BAD if kind != "a later nonce"])
def test_the_pool_is_told_why_a_transaction_is_forbidden(engine, kind):
    with pytest.raises(InvalidTransaction):
        engine.inspect(BAD[kind])


def test_legacy_and_access_list_transactions_are_welcome(engine, members):
    legacy = members[0].sign(CHAIN_ID, gasPrice=0)
    listed = members[1].sign(CHAIN_ID, gasPrice=0, type=1, accessList=[])
    block = commit(engine, legacy, listed)
    assert len(engine.transactions(block)) == 2
    assert engine.decode(block.payload) == block


@pytest.mark.parametrize(
    "offer",
    [
        pytest.param({"gasPrice": 10**12}, id="legacy"),
        pytest.param({"gasPrice": 1, "type": 1, "accessList": []}, id="with an access list"),
        pytest.param({"maxFeePerGas": 3 * 10**9, "maxPriorityFeePerGas": 1}, id="a tip of one wei"),
        pytest.param(
            {"maxFeePerGas": 2**255, "maxPriorityFeePerGas": 2**254}, id="more than there is"
        ),
    ],
)
def test_any_gas_price_may_be_offered_and_nobody_pays_it(engine, other, members, offer):
    free = [member.sign(CHAIN_ID, nonce=0) for member in MEMBERS[:2]]
    offering = [member.sign(CHAIN_ID, nonce=0, **offer) for member in MEMBERS[:2]]
    assert engine.inspect(offering[0]).sender == ANN
    block = engine.build(offering, GENESIS_TIME_S + 1, BEN)
    assert len(engine.transactions(block)) == 2
    root = rlp.decode(block.payload, LondonBlock).header.state_root
    unpaid = engine.build(free, GENESIS_TIME_S + 1, BEN)
    assert root == rlp.decode(unpaid.payload, LondonBlock).header.state_root
    for replica in (engine, other):
        copy = replica.decode(block.payload)
        replica.execute(copy)
        replica.commit(copy, b"certificate")
        assert replica.head == block
        assert count(replica) == 2


def test_a_used_nonce_is_refused_with_the_next_one(engine, members):
    raw = members[0].sign(CHAIN_ID)
    assert engine.inspect(raw).sender == ANN
    commit(engine, raw)
    with pytest.raises(InvalidTransaction, match="the next is 1"):
        engine.inspect(raw)


def test_a_sender_gets_sixteen_transactions_into_a_block(engine, members):
    raws = [members[0].sign(CHAIN_ID, gas=100_000) for _ in range(17)]
    block = engine.build(raws, GENESIS_TIME_S + 1, ANN)
    assert len(engine.transactions(block)) == 16
    with pytest.raises(InvalidBlock, match="16 transactions in this block"):
        strict(engine, raws)


def test_a_block_takes_no_more_gas_than_its_limit(engine, members):
    raws = [m.sign(CHAIN_ID, "burn()", gas=900_000) for m in members for _ in range(2)]
    block = engine.build(raws, GENESIS_TIME_S + 1, ANN)
    assert len(engine.transactions(block)) == 5


def test_membership_counts_as_of_the_parent_block(engine, members):
    raws = [
        members[0].sign(CHAIN_ID, "setMember(address,bool)", BEN, False),
        members[0].sign(CHAIN_ID, "setMember(address,bool)", STRANGER.address, True),
        members[1].sign(CHAIN_ID),
        STRANGER.sign(CHAIN_ID, nonce=0),
    ]
    block = commit(engine, *raws)
    assert len(engine.transactions(block)) == 3
    with pytest.raises(InvalidTransaction, match="not a member"):
        engine.inspect(members[1].sign(CHAIN_ID))
    block = commit(engine, members[1].sign(CHAIN_ID, nonce=1), STRANGER.sign(CHAIN_ID, nonce=0))
    assert len(engine.transactions(block)) == 1


def test_validators_are_those_of_the_parent_block(engine, members):
    commit(engine, members[0].sign(CHAIN_ID, "setValidators(address[])", [CLEO, BEN]))
    commit(engine, members[0].sign(CHAIN_ID), proposer=CLEO)
    assert engine.validators(1) == (ANN, BEN, CLEO, DAN)
    assert engine.validators(2) == engine.validators(3) == engine.validators() == (CLEO, BEN)
    with pytest.raises(InvalidBlock, match="not a validator"):
        engine.build([], engine.head.timestamp, ANN)
    block = engine.build([], engine.head.timestamp, BEN)
    with pytest.raises(InvalidBlock, match="not a validator"):
        engine.execute(rewrite(engine, block, coinbase=ANN))


@pytest.mark.parametrize(
    ("signature", "argument"),
    [
        ("setBroken(bool)", True),
        ("setValidators(address[])", []),
        ("setValidators(address[])", [BEN, BEN]),
        ("setValidators(address[])", [BEN, bytes(20)]),
    ],
)
def test_the_last_validators_stand_if_the_contract_names_none(
    tmp_path, members, signature, argument
):
    with Engine.open(tmp_path, GENESIS) as engine:
        commit(engine, members[0].sign(CHAIN_ID, "setValidators(address[])", [ANN, BEN]))
        commit(engine, members[0].sign(CHAIN_ID, signature, argument))
        assert engine.validators() == (ANN, BEN)
    with Engine.open(tmp_path, GENESIS) as engine:
        assert engine.validators() == (ANN, BEN)


def test_kept_answers_are_those_that_the_contract_gives_anew(tmp_path):
    """A replica that never stopped and one that forgets everything after each block agree."""
    chance, strangers = random.Random(5), [Member(100 + i) for i in range(3)]
    everyone = [*fresh_members(), *strangers]
    with Engine.open(tmp_path / "one", GENESIS) as engine:
        for _ in range(30):
            raws = []
            for member in chance.sample(everyone, 3):
                who = chance.choice(everyone[1:]).address
                action: tuple[object, ...] = chance.choice(
                    [
                        (),
                        ("setMember(address,bool)", who, chance.random() < 0.5),
                        ("setValidators(address[])", [who, ANN][: chance.randint(0, 2)]),
                        ("setBroken(bool)", chance.random() < 0.3),
                    ]
                )
                nonce = engine.nonce(member.address)
                raws.append(member.sign(CHAIN_ID, *action, nonce=nonce))  # type: ignore[arg-type]
            block = engine.build(raws, engine.head.timestamp, engine.validators()[0])
            engine.commit(block, b"certificate")
            with Engine.open(tmp_path / "two", GENESIS) as forgetful:
                forgetful.commit(forgetful.decode(block.payload), b"certificate")
                assert forgetful.validators() == engine.validators()
                for member in everyone:
                    asked = member.address
                    assert forgetful.is_member(asked) == engine.is_member(asked)
        assert len({engine.validators(height) for height in range(1, 31)}) >= 3


def test_only_answers_that_hang_on_storage_alone_are_kept(engine):
    def depends_on(signature: str, *arguments: object):
        return engine.simulate(engine.contract, calldata(signature, *arguments)).depends_on

    assert depends_on("count()") == {(engine.contract, 2)}
    assert depends_on("getValidators()")
    assert depends_on("memberOf(address)", ANN)
    assert depends_on("clock()") is None
    assert depends_on("ancestor(uint256)", 0) is None


def test_committing_twice_changes_nothing_and_a_second_block_at_a_height_is_refused(
    engine, other, members
):
    block = commit(engine, members[0].sign(CHAIN_ID))
    engine.commit(block, b"another certificate")
    assert engine.certificate(1) == b"certificate 1"
    rival = other.build([], GENESIS_TIME_S + 9, BEN)
    with pytest.raises(ChainError, match="was decided as"):
        engine.commit(rival, b"certificate")
    assert engine.head == block


def test_a_block_is_committed_without_having_been_executed_before(engine, other, members):
    block = engine.build([members[0].sign(CHAIN_ID)], GENESIS_TIME_S + 1, ANN)
    other.commit(other.decode(block.payload), b"certificate")
    assert other.head == block


def test_an_invalid_block_cannot_be_committed(engine, members):
    block = engine.build([members[0].sign(CHAIN_ID)], GENESIS_TIME_S + 1, ANN)
    with pytest.raises(InvalidBlock):
        engine.commit(rewrite(engine, block, state_root=bytes(32)), b"certificate")
    assert engine.head.height == 0
    assert engine.block(0).hash == engine.genesis_hash
    with pytest.raises(ChainError, match="no block 1"):
        engine.block(1)


def test_a_directory_of_another_chain_is_refused(tmp_path):
    Engine.open(tmp_path, GENESIS).close()
    with pytest.raises(ConfigurationError, match="use the network file"):
        Engine.open(tmp_path, found(3)[0])


def test_a_call_sees_the_block_it_asks_at_and_pending_the_next(engine, members):
    commit(engine, members[0].sign(CHAIN_ID), seconds=100)
    commit(engine, members[0].sign(CHAIN_ID), seconds=100)
    now = GENESIS_TIME_S + 1000
    assert numbers(engine, "clock()") == (2, GENESIS_TIME_S + 200)
    assert numbers(engine, "clock()", block=1) == (1, GENESIS_TIME_S + 100)
    assert numbers(engine, "clock()", block="pending", timestamp=now) == (3, now)
    assert numbers(engine, "count()", block=1) == (1,)
    assert engine.nonce(ANN, 1) == 1


def test_a_call_changes_nothing(engine):
    engine.call(engine.contract, calldata("note(bytes)", b"x"), sender=ANN)
    assert count(engine) == 0


def test_whoever_asks_for_many_slots_does_not_fill_the_memory(engine, members, monkeypatch):
    monkeypatch.setattr(evm, "MAX_KNOWN_SLOTS", 10)
    for slot in range(1000, 1050):
        assert engine.storage(engine.contract, slot) == 0
    assert len(engine._head.slots) <= 10
    for expected in (1, 2):  # full or not, what blocks write is what is read after them
        commit(engine, members[0].sign(CHAIN_ID))
        assert count(engine) == expected


def test_what_blocks_wrote_does_not_stay_in_memory_once_it_is_stored(engine, members):
    gc.collect()
    before = sum(isinstance(thing, evm.Overlay) for thing in gc.get_objects())
    for _ in range(5):
        commit(engine, *(member.sign(CHAIN_ID) for member in members))
    gc.collect()
    assert sum(isinstance(thing, evm.Overlay) for thing in gc.get_objects()) <= before


def test_a_failed_call_carries_the_revert_data(engine):
    with pytest.raises(CallFailed) as failed:
        engine.call(engine.contract, calldata("refuse(uint256)", 7), sender=BEN)
    assert failed.value.revert_data is not None
    who, code = decode(["address", "uint256"], failed.value.revert_data[4:])
    assert (bytes.fromhex(who[2:]), code) == (BEN, 7)


def test_a_call_without_end_ends(engine):
    result = engine.simulate(engine.contract, calldata("burn()"), gas=100_000)
    assert result.failure is not None
    assert "gas" in result.failure
    assert result.revert_data is None


def test_blockhash_sees_the_chain(engine, members):
    hashes = [engine.genesis_hash, *(commit(engine).hash for _ in range(3))]
    output = engine.call(engine.contract, calldata("ancestor(uint256)", 1), block="pending")
    assert output == hashes[1]
    assert engine.call(engine.contract, calldata("ancestor(uint256)", 3)) == bytes(32)


def test_damaged_and_oversized_blocks_are_protocol_violations(engine, members):
    payload = engine.build([m.sign(CHAIN_ID) for m in members], GENESIS_TIME_S + 1, ANN).payload
    chance = random.Random(7)
    rules = ChainRules()
    hostile = [
        b"",
        b"\xc0",
        b"\xc3\xc0\xc0\xc0",
        b"\xff" * 64,
        b"\xf9\xff\xff" + b"\xc1" * 65535,
        bytes(rules.block_bytes + 1),
        payload[:-1],
        payload + b"\0",
        rlp.encode([b"", [b""] * 1000, []]),
    ]
    for _ in range(300):
        damaged = bytearray(payload)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        hostile.append(bytes(damaged))
    refused = 0
    for content in hostile:
        try:
            block = engine.decode(content)
        except ProtocolViolation:
            refused += 1
            continue
        if block.payload != payload:
            with pytest.raises(InvalidBlock):
                engine.execute(block)
    assert refused > 250


def test_damaged_transactions_are_refused(engine, members):
    raw = members[0].sign(CHAIN_ID)
    chance = random.Random(11)
    hostile = [
        b"",
        b"\0",
        b"\x02",
        b"\x7f\xc0",
        b"\xc0",
        b"\xff" * 40,
        b"\xc1" * 40_000,
        raw + b"\0",
    ]
    for _ in range(500):
        damaged = bytearray(raw)
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        if bytes(damaged) != raw:
            hostile.append(bytes(damaged))
    for content in hostile:
        with pytest.raises(InvalidTransaction):
            engine.inspect(content)


def test_every_replica_computes_these_hashes_for_ever(engine):
    """Other values are other consensus rules: they need a new genesis version."""
    block = engine.build([MEMBERS[0].sign(CHAIN_ID, nonce=0)], GENESIS_TIME_S + 1, ANN)
    assert CHAIN_ID == GOLDEN_CHAIN_ID
    assert (to_hex(engine.genesis_hash), to_hex(block.hash)) == GOLDEN_HASHES


GOLDEN_CHAIN_ID = 1790951024109895
GOLDEN_HASHES = (
    "0x94f8c19f5aa5d61eb09bbbf8c50a1aeb2ceecf4fd23b221b89a630476ba3070d",
    "0x4371cdcca4eb75f052dee709c07b59532172c3b030ff4f9bff0d796215afc246",
)


# What a member may send on one day.


def say(member: Member, size: int, nonce: int | None = None) -> bytes:
    """Useless calldata: it reverts, and is kept for ever."""
    return member.sign(CHAIN_ID, "say(string)", "x" * size, nonce=nonce, gas=300_000)


@pytest.fixture
def tight(tmp_path: Path) -> Iterator[Engine]:
    """A chain on which a member may send 5,000 bytes a day."""
    with Engine.open(tmp_path / "tight", GENESIS, ChainRules(member_day_bytes=5000)) as engine:
        yield engine


def test_a_member_sends_as_much_as_its_budget_of_the_day_and_not_a_byte_more(tight, members):
    first, second = say(members[0], 4000), say(members[0], 64)
    commit(tight, first)
    assert tight.room_today(ANN) == 5000 - len(first)
    for short in (1, 0):
        most = len(first) + len(second) - short
        tight.rules = replace(tight.rules, member_day_bytes=most)
        assert len(tight.transactions(tight.build([second], tight.timestamp, ANN))) == 1 - short
        if short:
            with pytest.raises(InvalidTransaction, match=f"has sent {len(first)} bytes"):
                tight.inspect(second)
    assert tight.inspect(second).raw == second


def test_what_one_has_sent_is_nobody_elses_and_the_next_day_is_a_new_one(tight, members):
    commit(tight, say(members[0], 4000))
    over = say(members[0], 4000)
    theirs = say(members[1], 4000)
    block = commit(tight, over, theirs)
    assert len(tight.transactions(block)) == 1
    midnight = (tight.timestamp // 86_400 + 1) * 86_400
    for timestamp, fits in ((midnight - 1, False), (midnight, True)):
        assert len(tight.transactions(tight.build([over], timestamp, BEN))) == fits
    commit(tight, over, seconds=midnight - tight.timestamp)
    assert tight.room_today(BEN) == 5000


def test_a_block_that_breaks_a_members_budget_is_refused_within_one_block_too(tight, members):
    raws = [say(members[0], 2000) for _ in range(3)]
    with pytest.raises(InvalidBlock, match="on this day of chain time"):
        strict(tight, raws)
    assert len(tight.transactions(commit(tight, *raws))) == 2


def test_a_budget_survives_a_restart_and_a_copy_of_the_chain(tmp_path, members):
    rules = ChainRules(member_day_bytes=5000)
    with Engine.open(tmp_path / "one", GENESIS, rules) as engine:
        commit(engine, say(members[0], 4000))
        left = engine.room_today(ANN)
        (tmp_path / "two").mkdir()
        engine.copy_to(tmp_path / "two" / "chain.db")
    for place in ("one", "two"):
        with Engine.open(tmp_path / place, GENESIS, rules) as engine:
            assert engine.room_today(ANN) == left < 1000


def test_no_draw_of_sizes_and_days_exceeds_a_budget_or_divides_builders_and_validators(tmp_path):
    rules, chance = ChainRules(member_day_bytes=20_000), random.Random(5)
    members = fresh_members()
    sent: dict[tuple[Address, int], int] = {}
    with (
        Engine.open(tmp_path / "builder", GENESIS, rules) as builder,
        Engine.open(tmp_path / "validator", GENESIS, rules) as validator,
    ):
        refused = 0
        for _ in range(40):
            raws = []
            for member in members:
                nonce = builder.nonce(member.address)
                for i in range(chance.choice([0, 1, 1, 4])):
                    raws.append(say(member, chance.choice([1, 500, 3000, 9000]), nonce + i))
            seconds = chance.choice([0, 1, 60, 40_000])
            block = builder.build(raws, builder.timestamp + seconds, ANN)
            validator.execute(validator.decode(block.payload))
            for engine in (builder, validator):
                engine.commit(block, b"certificate")
            held, _ = builder.content(block)
            refused += len(raws) - len(held)
            for transaction in held:
                day = transaction.sender, block.timestamp // 86_400
                sent[day] = sent.get(day, 0) + len(transaction.raw)
        assert refused > 10
        assert 15_000 < max(sent.values()) <= 20_000
        for member in members:
            today = sent.get((member.address, builder.timestamp // 86_400), 0)
            assert builder.room_today(member.address) == 20_000 - today
