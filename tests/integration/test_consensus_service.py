"""Four chain services with real engines, stores and signatures, over a transport in memory."""

from __future__ import annotations

import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
from harness.chain import GENESIS_TIME_S, Member, found

from swarm.chain import qbft, service
from swarm.chain.block import InvalidTransaction, Transaction
from swarm.chain.engine import Engine
from swarm.chain.genesis import consortium_genesis
from swarm.chain.messages import (
    Blocks,
    GetBlocks,
    Prepare,
    Status,
    Transactions,
    check_certificate,
    decode,
    decode_certificate,
    encode,
)
from swarm.chain.override import Override, SignedOverride
from swarm.chain.pool import Pool
from swarm.chain.service import VOTE_KEY, ChainService, open_chain, recover_votes
from swarm.chain.signer import NodeKeys
from swarm.chain.startup import decode_record
from swarm.chain.store import VoteStore
from swarm.chain.sync import certified_blocks
from swarm.types import Address, Digest

DEADLINE_S = 20
NOT_UTF8 = b"\x92\xa1\xff\x01"
GARBAGE = (b"", b"\xc1", b"\x00" * 100, encode(Blocks(1, ()))[:-1], NOT_UTF8)


class Hub:
    """Delivers what nodes send to each other, as long as both run."""

    def __init__(self) -> None:
        self.running: dict[Address, ChainService] = {}
        self.sent = 0
        self.spoil: Callable[[bytes], bytes] = lambda payload: payload

    def join(self, address: Address, chain: ChainService) -> None:
        for peer, other in self.running.items():
            other.peer_connected(address)
            chain.peer_connected(peer)
        self.running[address] = chain


class Wire:
    def __init__(self, hub: Hub, address: Address) -> None:
        self.hub, self.address = hub, address

    @property
    def connected(self) -> set[Address]:
        return set(self.hub.running) - {self.address}

    def send(self, peer: Address, payload: bytes) -> None:
        self.hub.sent += 1
        if peer in self.hub.running and self.address in self.hub.running:
            self.hub.running[peer].receive(self.address, self.hub.spoil(payload))


class Site:
    """One member's directory, which outlives its node."""

    def __init__(self, path: Path, hub: Hub, member: Member, genesis) -> None:
        self.path, self.hub, self.member, self.genesis = path, hub, member, genesis
        self.address = member.address
        self.refusals: list[str] = []
        self.overrides: tuple[SignedOverride, ...] = ()

    @asynccontextmanager
    async def run(self) -> AsyncIterator[ChainService]:
        self.path.mkdir(exist_ok=True)
        votes = VoteStore(self.path / "votes.db")
        with Engine.open(self.path, self.genesis, overrides=self.overrides) as self.engine:
            try:
                async with open_chain(
                    self.engine,
                    votes,
                    Pool(self.engine),
                    NodeKeys(self.member.secret),
                    Wire(self.hub, self.address),
                    refused=lambda peer, reason: self.refusals.append(reason),
                ) as chain:
                    self.hub.join(self.address, chain)
                    try:
                        yield chain
                    finally:
                        del self.hub.running[self.address]
            finally:
                votes.close()

    def block_names(self, height: int) -> tuple[Digest, ...]:
        with Engine.open(self.path, self.genesis) as engine:
            return engine.transactions(engine.block(height))

    def sign(self) -> bytes:
        return self.member.sign(self.genesis.chain_id)


class Sites:
    def __init__(self, path: Path, count: int, real: bool = False) -> None:
        self.genesis, members = found(count)
        if real:
            self.genesis = consortium_genesis([m.card for m in members], GENESIS_TIME_S)
        self.hub = Hub()
        self.all = [Site(path / str(i), self.hub, m, self.genesis) for i, m in enumerate(members)]

    async def reach(self, height: int) -> None:
        with trio.fail_after(DEADLINE_S):
            for chain in list(self.hub.running.values()):
                while (await chain.wait_for_head(height - 1, DEADLINE_S)).height < height:
                    pass


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        with trio.fail_after(2 * DEADLINE_S):
            await test()

    trio.run(bounded)


async def until(holds: Callable[[], bool]) -> None:
    with trio.fail_after(DEADLINE_S):
        while not holds():  # noqa: ASYNC110 - nothing announces it
            await trio.sleep(0.01)


def heads(sites: Sites) -> set[bytes]:
    return {chain.head.hash for chain in sites.hub.running.values()}


def test_one_validator_decides_alone(tmp_path):
    async def live() -> None:
        sites = Sites(tmp_path, 1)
        async with sites.all[0].run() as chain:
            await chain.submit(sites.all[0].sign())
            await sites.reach(1)
            assert chain.status()["role"] == "validator"

    run(live)


def test_four_services_agree_on_every_transaction(tmp_path):
    async def live() -> None:
        sites = Sites(tmp_path, 4)
        async with AsyncExitStack() as stack:
            chains = [await stack.enter_async_context(site.run()) for site in sites.all]
            for height in range(1, 6):
                site = sites.all[height % 4]
                name = await chains[height % 4].submit(site.sign())
                await sites.reach(height)
                for other in sites.all:
                    assert other.engine.transactions(other.engine.block(height)) == (name,)
            assert len(heads(sites)) == 1
            engine = sites.all[0].engine
            certificate = decode_certificate(engine.certificate(5))
            signers = check_certificate(
                certificate, engine.genesis_hash, engine.validators(5), NodeKeys(b"\1" * 32)
            )
            assert len(signers) >= 3
            assert all(chain.status()["waiting_for"] == [] for chain in chains)

    run(live)


def test_everybody_hears_of_a_transaction_that_waits_and_its_sender_does_not(tmp_path):
    async def live() -> None:
        sites = Sites(tmp_path, 4)
        heard: dict[int, list[bytes]] = {i: [] for i in range(4)}
        async with AsyncExitStack() as stack:
            chains = [await stack.enter_async_context(site.run()) for site in sites.all]
            for i, chain in enumerate(chains):
                chain.on_admitted = lambda transaction, i=i: heard[i].append(transaction)
            name = await chains[1].submit(sites.all[1].sign())
            await sites.reach(1)
            await until(lambda: all(heard[i] for i in (0, 2, 3)))
        assert heard.pop(1) == []
        assert {(t.hash, t.sender) for (t,) in heard.values()} == {(name, sites.all[1].address)}

    run(live)


@pytest.fixture
def without_time_outs(monkeypatch):
    """Nothing but the gathering of transactions may move a block on."""
    monkeypatch.setattr(qbft, "ROUND_S", 2.0 * DEADLINE_S)
    monkeypatch.setattr(qbft, "LONGEST_ROUND_S", 2.0 * DEADLINE_S)
    monkeypatch.setattr(qbft, "RESEND_S", 2.0 * DEADLINE_S)
    monkeypatch.setattr(service, "ANNOUNCE_EVERY_S", 2.0 * DEADLINE_S)


def test_a_block_waits_for_what_is_known_to_come_and_no_longer(
    tmp_path, monkeypatch, without_time_outs
):
    monkeypatch.setattr(service, "LONGEST_GATHER_S", 2 * DEADLINE_S)

    async def live() -> None:
        sites = Sites(tmp_path, 4)
        async with AsyncExitStack() as stack:
            chains = [await stack.enter_async_context(site.run()) for site in sites.all]
            for chain in chains:
                chain.expects_more = lambda waiting: len(waiting) < 4
            names = {
                await chain.submit(site.sign())
                for chain, site in zip(chains, sites.all, strict=True)
            }
            await sites.reach(1)
        assert set(sites.all[0].block_names(1)) == names

    run(live)


def test_a_block_goes_when_what_it_waited_for_is_not_to_come_any_more(
    tmp_path, monkeypatch, without_time_outs
):
    monkeypatch.setattr(service, "LONGEST_GATHER_S", 2 * DEADLINE_S)

    async def live() -> None:
        sites = Sites(tmp_path, 1)
        async with sites.all[0].run() as chain:
            asked: list[int] = []
            awaited = True

            def expects_more(waiting: Collection[Transaction]) -> bool:
                asked.append(len(waiting))
                return awaited

            chain.expects_more = expects_more
            await chain.submit(sites.all[0].sign())
            await until(lambda: 1 in asked)
            await trio.sleep(0.5)  # so that nothing else is left to wake it
            assert chain.head.height == 0
            awaited = False
            chain.reconsider()
            await sites.reach(1)

    run(live)


def test_a_block_does_not_wait_for_long_for_what_never_comes(tmp_path, without_time_outs):
    async def live() -> None:
        sites = Sites(tmp_path, 1)
        async with sites.all[0].run() as chain:
            chain.expects_more = lambda waiting: True
            await chain.submit(sites.all[0].sign())
            await sites.reach(1)

    run(live)


def test_a_killed_service_catches_up_and_votes_again(tmp_path):
    async def live() -> None:
        sites = Sites(tmp_path, 4)
        async with AsyncExitStack() as stack:
            chains = [await stack.enter_async_context(site.run()) for site in sites.all[:3]]
            async with sites.all[3].run() as fourth:
                await fourth.submit(sites.all[3].sign())
                await sites.reach(1)
            for height in range(2, 5):
                await chains[0].submit(sites.all[0].sign())
                await sites.reach(height)
            async with sites.all[3].run() as fourth:
                assert fourth.head.height <= 1
                await sites.reach(4)
                async with AsyncExitStack():
                    del sites.hub.running[sites.all[2].address]
                    await fourth.submit(sites.all[3].sign())
                    await sites.reach(5)
                    sites.hub.running[sites.all[2].address] = chains[2]
                assert fourth.status()["role"] == "validator"

    run(live)


def test_a_dead_proposer_is_replaced(tmp_path):
    async def live() -> None:
        sites = Sites(tmp_path, 4)
        async with AsyncExitStack() as stack:
            chains = [await stack.enter_async_context(site.run()) for site in sites.all[1:]]
            await chains[0].submit(sites.all[1].sign())
            await sites.reach(1)
            await chains[1].submit(sites.all[2].sign())
            with trio.fail_after(0.9):  # the parent's proposer goes first: no time-out any more
                await sites.reach(2)

    run(live)


def test_without_a_quorum_the_chain_names_whom_it_waits_for_and_resumes(tmp_path):
    async def live() -> None:
        sites = Sites(tmp_path, 3)
        async with sites.all[0].run() as first:
            await first.submit(sites.all[0].sign())
            assert (await first.wait_for_head(0, 0.2)).height == 0
            waited = first.status()["waiting_for"]
            assert len(waited) == 2  # type: ignore[arg-type]
            async with sites.all[1].run():
                await sites.reach(1)

    run(live)


def test_a_deleted_vote_store_makes_the_node_observe_for_two_heights(tmp_path):
    async def live() -> None:
        sites = Sites(tmp_path, 4)
        async with AsyncExitStack() as stack:
            chains = [await stack.enter_async_context(site.run()) for site in sites.all[:3]]
            async with sites.all[3].run():
                await chains[0].submit(sites.all[0].sign())
                await sites.reach(1)
            for name in sites.all[3].path.glob("votes.db*"):
                name.unlink()
            async with sites.all[3].run() as fourth:
                await until(lambda: fourth.resume_height is not None)
                assert fourth.resume_height == 3
                for height in range(2, 4):
                    await chains[1].submit(sites.all[1].sign())
                    await sites.reach(height)
                assert fourth.status()["role"] == "validator"

    run(live)


def test_a_vote_store_that_was_rolled_back_is_noticed(tmp_path):
    async def live() -> None:
        sites = Sites(tmp_path, 4)
        last = sites.all[3]
        async with AsyncExitStack() as stack:
            # With one of four away no block is made without the vote of each of the others.
            chains = [await stack.enter_async_context(site.run()) for site in sites.all[:2]]
            async with last.run() as fourth:
                await fourth.submit(last.sign())
                await sites.reach(1)
            shutil.copy(last.path / "votes.db", last.path / "old")
            async with last.run() as fourth:
                await fourth.submit(last.sign())
                await sites.reach(2)
            for name in last.path.glob("votes.db*"):
                name.unlink()
            shutil.copy(last.path / "old", last.path / "votes.db")
            await stack.enter_async_context(sites.all[2].run())
            async with last.run() as fourth:
                await chains[0].submit(sites.all[0].sign())
                await sites.reach(3)
                assert fourth.resume_height in (4, 5)

    run(live)


def test_an_operator_can_order_a_node_to_vote_again(tmp_path):
    votes = VoteStore(tmp_path / "votes.db")
    recover_votes(votes, 7)
    record = decode_record(votes.get(VOTE_KEY) or b"")
    votes.close()
    assert (record.resume, record.recovered) == (8, True)


def test_a_forged_certificate_is_refused_and_named(tmp_path):
    def spoil(payload: bytes) -> bytes:
        message = decode(payload)
        if isinstance(message, Blocks):
            item = message.blocks[0]
            certificate = decode_certificate(item.certificate)
            forged = msgspec.structs.replace(certificate, seals=certificate.seals[:1] * 3)
            item = msgspec.structs.replace(item, certificate=encode(forged))
            return encode(msgspec.structs.replace(message, blocks=(item,)))
        return payload

    async def live() -> None:
        sites = Sites(tmp_path, 4)
        async with AsyncExitStack() as stack:
            chains = [await stack.enter_async_context(site.run()) for site in sites.all[:3]]
            await chains[0].submit(sites.all[0].sign())
            await sites.reach(1)
            sites.hub.spoil = spoil
            async with sites.all[3].run() as fourth:
                await until(lambda: bool(sites.all[3].refusals))
                assert fourth.head.height == 0
                assert "seals of 1 validators" in sites.all[3].refusals[0]

    run(live)


def test_garbage_is_refused_and_named(tmp_path):
    async def live() -> None:
        sites = Sites(tmp_path, 1)
        async with sites.all[0].run() as chain:
            for payload in GARBAGE:
                chain.receive(Address(b"\7" * 20), payload)
            await chain.submit(sites.all[0].sign())
            await sites.reach(1)
            assert len(sites.all[0].refusals) == len(GARBAGE)

    run(live)


def test_a_transaction_that_no_block_could_hold_is_refused_at_once(tmp_path):
    async def live() -> None:
        sites = Sites(tmp_path, 1)
        async with sites.all[0].run() as chain:
            with pytest.raises(InvalidTransaction):
                await chain.submit(Member(99).sign(sites.genesis.chain_id))

    run(live)


def test_heads_are_followed_as_they_come(tmp_path):
    async def live() -> None:
        sites = Sites(tmp_path, 1)
        async with sites.all[0].run() as chain:
            seen = []
            async for head in chain.heads():
                seen.append(head.height)
                if head.height == 3:
                    break
                await chain.submit(sites.all[0].sign())
            assert seen == [0, 1, 2, 3]

    run(live)


def test_a_signed_override_lets_three_of_five_go_on_and_takes_back_who_returns(tmp_path):
    async def live() -> None:
        sites = Sites(tmp_path, 5, real=True)
        staying, returning = sites.all[:3], sites.all[3]
        async with AsyncExitStack() as stack:
            chains = [await stack.enter_async_context(site.run()) for site in sites.all]
            await chains[0].submit(sites.all[0].sign())
            await sites.reach(1)
        async with AsyncExitStack() as stack:
            chains = [await stack.enter_async_context(site.run()) for site in staying]
            await chains[0].submit(staying[0].sign())
            assert (await chains[0].wait_for_head(1, 0.5)).height == 1  # four of five are needed
            override = Override(
                staying[0].engine.genesis_hash,
                2,
                chains[0].head.hash,
                tuple(site.address for site in staying),
            )
        signed = SignedOverride(override, ())
        for site in staying:
            signed = signed.signed_by(NodeKeys(site.member.secret))
        for site in staying:
            site.overrides = (signed,)
            votes = VoteStore(site.path / "votes.db")
            recover_votes(votes, 1)
            votes.close()
        async with AsyncExitStack() as stack:
            chains = [await stack.enter_async_context(site.run()) for site in staying]
            await chains[0].submit(staying[0].member.sign(sites.genesis.chain_id, nonce=1))
            await sites.reach(2)
            assert staying[0].engine.validators() == override.validators
            async with returning.run() as ignorant:  # it was not given the override
                await until(lambda: bool(returning.refusals))
                assert ignorant.head.height == 1
            returning.overrides = (signed,)
            async with returning.run() as informed:
                await sites.reach(2)
                assert informed.status()["role"] == "follower"
                await chains[1].submit(staying[1].sign())
                await sites.reach(3)
                assert len(heads(sites)) == 1

    run(live)


# One lying member.

FAR = 2**53


class Liar:
    """Stands in for a node: claims an absurd height, and does nothing else than `answer` does."""

    def __init__(self, hub: Hub, address: Address, answer=lambda peer, message: None) -> None:
        self.hub, self.address, self.answer = hub, address, answer
        self.asked = 0
        hub.running[address] = self

    def say(self, peer: Address, message) -> None:
        self.hub.running[peer].receive(self.address, encode(message))

    def peer_connected(self, peer: Address) -> None:
        pass

    def receive(self, sender: Address, payload: bytes) -> None:
        message = decode(payload)
        self.asked += isinstance(message, GetBlocks)
        self.answer(sender, message)


CLAIMS = (Prepare(FAR, 0, bytes(32), bytes(65)), Status(FAR, FAR))


async def fall_behind(sites: Sites, stack: AsyncExitStack, bad: Site, lagging: Site):
    """All but `bad` and `lagging` run, whose chains are returned; `lagging` has missed a block."""
    good = [site for site in sites.all if site not in (bad, lagging)]
    chains = [await stack.enter_async_context(site.run()) for site in good]
    async with bad.run():
        async with lagging.run() as chain:
            await chain.submit(lagging.sign())
            await sites.reach(1)
        await chains[0].submit(good[0].sign())
        await sites.reach(2)
    return chains


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: type(claim).__name__)
def test_a_node_that_restarts_behind_catches_up_whatever_a_silent_member_claims(tmp_path, claim):
    async def test() -> None:
        sites = Sites(tmp_path, 5)
        bad, lagging, *_ = sorted(sites.all, key=lambda site: site.address)
        async with AsyncExitStack() as stack:
            await fall_behind(sites, stack, bad, lagging)
            liar = Liar(sites.hub, bad.address)
            chain = await stack.enter_async_context(lagging.run())
            liar.say(lagging.address, claim)
            await until(lambda: chain.head.height == 2)
            del sites.hub.running[bad.address]

    run(test)


def test_four_validators_with_a_liar_go_on_after_an_honest_one_restarted_behind(tmp_path):
    async def test() -> None:
        sites = Sites(tmp_path, 4)
        bad, lagging, *good = sorted(sites.all, key=lambda site: site.address)
        async with AsyncExitStack() as stack:
            chains = await fall_behind(sites, stack, bad, lagging)
            liar = Liar(sites.hub, bad.address)
            stack.callback(sites.hub.running.pop, bad.address)
            chain = await stack.enter_async_context(lagging.run())
            liar.say(lagging.address, CLAIMS[0])
            await chains[0].submit(good[0].sign())
            await until(lambda: min(c.head.height for c in (chain, *chains)) == 3)
            assert liar.asked <= 3

    run(test)


def test_blocks_of_no_use_keep_nobody_elses_from_being_read(tmp_path):
    async def test() -> None:
        sites = Sites(tmp_path, 4)
        bad, lagging, good, _ = sites.all
        async with AsyncExitStack() as stack:
            await fall_behind(sites, stack, bad, lagging)
            useful = certified_blocks(good.engine, 2)
            useless = Blocks(FAR, certified_blocks(good.engine, 1).blocks[:1] * 64)
        async with lagging.run() as chain:
            liar, honest = (Liar(sites.hub, site.address) for site in (bad, good))
            engine_works = threading.Event()

            def wait() -> Callable[[], None]:
                assert engine_works.wait(DEADLINE_S)
                return lambda: None

            chain._engine_lane.add(wait)
            for _ in range(20):
                liar.say(lagging.address, useless)
            honest.say(lagging.address, useful)
            for _ in range(20):
                liar.say(lagging.address, useless)
            await until(lambda: not chain._inbox)
            engine_works.set()
            await until(lambda: chain.head.height == 2)
            for each in (liar, honest):
                del sites.hub.running[each.address]

    run(test)


def test_a_flood_of_questions_is_answered_one_at_a_time_and_others_in_between(tmp_path):
    async def test() -> None:
        sites = Sites(tmp_path, 4)
        bad, asking, *good = sites.all
        async with AsyncExitStack() as stack:
            chains = [await stack.enter_async_context(site.run()) for site in good]
            async with bad.run(), asking.run():
                await chains[0].submit(good[0].sign())
                await sites.reach(1)
            answered: list[Address] = []
            liar, other = (
                Liar(
                    sites.hub,
                    site.address,
                    lambda peer, message, site=site: (
                        isinstance(message, Blocks) and answered.append(site.address)
                    ),
                )
                for site in (bad, asking)
            )
            for _ in range(service.MESSAGES_PER_TURN * 10):
                liar.say(good[0].address, GetBlocks(1))
            other.say(good[0].address, GetBlocks(1))
            await until(lambda: asking.address in answered)
            assert answered.index(asking.address) <= 2
            for site in (bad, asking):
                del sites.hub.running[site.address]

    run(test)


def test_a_node_that_has_no_such_blocks_says_so(tmp_path):
    async def test() -> None:
        sites = Sites(tmp_path, 2)
        heard: list[Blocks] = []
        async with sites.all[0].run():
            other = Liar(
                sites.hub, sites.all[1].address, lambda peer, message: heard.append(message)
            )
            other.say(sites.all[0].address, GetBlocks(7))
            await until(lambda: Blocks(0, ()) in heard)
            del sites.hub.running[other.address]

    run(test)


def test_a_proposer_that_leaves_a_member_out_loses_the_turn_after_two_blocks(tmp_path):
    async def test() -> None:
        sites = Sites(tmp_path, 4)
        async with AsyncExitStack() as stack:
            chains = [await stack.enter_async_context(site.run()) for site in sites.all]
            await chains[1].submit(sites.all[1].sign())
            await sites.reach(1)
            censor = next(s for s in sites.all if s.address == chains[0].head.proposer)
            victim, *others = (s for s in sites.all if s is not censor)
            pool = sites.hub.running[censor.address]._pool
            everything = pool.pending

            def without_the_victim() -> tuple[bytes, ...]:
                waiting = everything()
                kept = [r for r in waiting if censor.engine.inspect(r).sender != victim.address]
                return tuple(kept)

            pool.pending = without_the_victim
            chain = sites.hub.running[victim.address]
            await chain.submit(victim.sign())
            nonce = victim.engine.nonce(victim.address)
            while victim.engine.nonce(victim.address) == nonce:
                height = chain.head.height
                await sites.hub.running[others[0].address].submit(others[0].sign())
                await sites.reach(height + 1)
                assert height <= 1 + 3, "one block it may not have known of, and f+1"
            assert chain.head.proposer != censor.address
            await sites.hub.running[others[0].address].submit(others[0].sign())
            await sites.reach(chain.head.height + 1)
            assert chain.head.proposer != censor.address, "the turn does not fall back to it"

    run(test)


def test_what_one_member_lets_wait_is_repeated_in_small_parts_and_after_the_others(tmp_path):
    async def test() -> None:
        sites = Sites(tmp_path, 3)
        flooder, member, listener = sites.all
        chain_id, large = sites.genesis.chain_id, b"\x07" * 32_000
        told: list[Transactions] = []
        async with member.run() as chain:  # alone: nothing that waits here is decided
            pool = chain._pool
            for nonce in range(1, 64):
                raw = flooder.member.sign(
                    chain_id, "note(bytes)", large, nonce=nonce, gas=1_000_000
                )
                await trio.to_thread.run_sync(pool.add, raw)
            mine = member.sign()
            await chain.submit(mine)
            other = Liar(sites.hub, listener.address, lambda peer, message: told.append(message))
            chain.peer_connected(other.address)
            await until(lambda: any(isinstance(message, Transactions) for message in told))
            del sites.hub.running[other.address]
        (message, *_) = (m for m in told if isinstance(m, Transactions))
        assert message.raw[0] == mine
        assert sum(map(len, message.raw)) <= service.MAX_TOLD_BYTES

    run(test)
