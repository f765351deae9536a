"""The hands of masked rounds: what the table of `protocol.masked_table` asks for, done with keys,
masks, shares and files.

Each kind of work ends with something in `held`, which the machine is told after it; what failed is
asked for again. Whatever a later step depends on is in a vault, durably, before anyone sees what
was made of it; so a restarted node goes on with what it had, and never draws the same thing twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import trio

from swarm.blobs.download import SMALL_BYTES
from swarm.blobs.fetch import Wish
from swarm.blobs.manifest import Manifest, Origin
from swarm.blobs.store import BlobStore
from swarm.errors import LocalError, RemoteError, SwarmError
from swarm.privacy import derivation, envelope, masks, shares
from swarm.privacy.derivation import Occasion, Party
from swarm.privacy.envelope import Dealer, Shape
from swarm.privacy.vault import Vault
from swarm.protocol import machine as m
from swarm.protocol import masked_table as t
from swarm.protocol.masking import EPOCHS, POINT_BYTES, SHARE_BYTES, Keys, read_keys, shares_needed
from swarm.protocol.program import Program, Stage
from swarm.protocol.state import (
    MAX_MEMBERS,
    MODEL_SLOT,
    UNDER_WAY,
    MemberSet,
    Plan,
    PlanStatus,
    Round,
    RoundStatus,
    VerifyLevel,
    members_in,
)
from swarm.rounds.address_book import AddressBook
from swarm.rounds.exchange import Exchange
from swarm.rounds.layouts import Layouts
from swarm.rounds.masked_secrets import ABOUT_BYTES, UPDATE, MaskedSecrets
from swarm.rounds.masked_sums import ReadBytes, Sums, grid_of, read_mapped
from swarm.rounds.retention import PlanBlobs
from swarm.tensors import Layout, open_file
from swarm.types import NO_DIGEST, Digest, MemberId, PlanId

log = logging.getLogger("swarm.plan")

PATIENCE_S, WITHIN_S = 10.0, 60.0
SHARES_S = 5.0
"""What is known of shares by then is told; envelopes that have not come are asked for again."""
GOOD, WRONG = b"\1", b"\0"
PREFIX_BYTES = 8
"""Of a tensor file: the length of its header."""


@dataclass(frozen=True)
class Case:
    """One attempt, as this node's work needs it."""

    plan: Plan
    round: Round
    occasion: Occasion
    vault: Vault

    @property
    def attempt(self) -> t.Attempt:
        return (self.round.number, self.round.attempt)

    @property
    def shape(self) -> Shape:
        """How envelopes of this attempt look."""
        consents = self.plan.consents
        roster = tuple(Party(i, consents[i].receiving_key) for i in members_in(self.round.roster))
        return Shape(self.occasion, roster, self.needed)

    @property
    def needed(self) -> int:
        """How many shares give a secret."""
        return shares_needed(self.round.roster.bit_count(), self.plan.rules.colluders)

    def keys_of(self, member: MemberId) -> Keys:
        """What a submitter posted. Raises RemoteError if this node has not seen it."""
        sent = self.round.submissions.get(member)
        keys = None if sent is None else read_keys(sent.keys)
        if keys is None:
            raise RemoteError(f"the keys of member {member} are not known here")
        return keys

    def dealer(self, member: MemberId) -> Dealer:
        keys = self.keys_of(member)
        return Dealer(Party(member, keys.public), keys.first)

    def weight(self, members: MemberSet) -> float:
        """The samples of these, of those of all who were frozen at the close."""
        assert self.round.masking is not None
        return self._samples(members) / self._samples(self.round.masking.submitters)

    def _samples(self, members: MemberSet) -> int:
        return sum(self.round.submissions[i].samples for i in members_in(members))


@dataclass
class MaskedWork:
    """One plan's masked rounds at one node. `genesis` names the chain."""

    plan: PlanId
    me: MemberId
    genesis: Digest
    program: Program
    book: AddressBook
    store: BlobStore
    exchange: Exchange
    layouts: Layouts
    blobs: PlanBlobs
    secrets: MaskedSecrets
    held: t.Holdings = field(default_factory=t.Holdings)
    """What the machine sees of all this."""

    async def work(self, command: t.Work, plan: Plan | None) -> m.Event:
        """Do one piece of work, for the plan as the machine sees it."""
        round = None if plan is None else plan.round
        here = None if round is None else (round.number, round.attempt)
        if plan is not None and round is not None and here == command.attempt:
            try:
                await self._do(command, self._case(plan, round))
            except SwarmError as error:
                name = type(command).__name__
                log.warning("%s in round %d failed: %s", name, round.number, error)
        return m.MaskedWorkEnded(command, self.held)

    async def check(self, number: int, base: Digest, update: Path) -> None:
        """Raise PlanError if the update in this file cannot be masked."""
        layout, read = await trio.to_thread.run_sync(read_mapped, update)
        if self._stage(number).slot == MODEL_SLOT:
            sums = await self._sums_of_model(number, base, MAX_MEMBERS)
        else:
            sums = Sums(grid_of(self._stage(number), MAX_MEMBERS), layout, None, MAX_MEMBERS)
        await trio.to_thread.run_sync(sums.check, read)

    async def settle(self, plan: Plan) -> None:
        """Erase the secrets of what is over. What the disk refuses is tried at the next head."""
        try:
            await self.secrets.in_turn(self._settle, plan)
        except LocalError as error:
            log.warning("secrets of plan %d are not erased yet: %s", plan.id, error)

    def _settle(self, plan: Plan) -> None:
        round, lives = plan.round, plan.status in (PlanStatus.PROPOSED, PlanStatus.RUNNING)
        runs = lives and round is not None and round.status in UNDER_WAY
        keep = (round.number, round.attempt) if runs and round is not None else None
        number = 0 if round is None else round.number + (round.status is RoundStatus.FINAL)
        consent = plan.consents.get(self.me)
        keys = set[bytes]()
        if lives and consent is not None:
            keys = {bytes(consent.next_receiving_key)}
            if keep is not None or round is None or round.masking is None:
                keys.add(bytes(consent.receiving_key))  # else it was spent: it counts never again
        if keep is not None:
            own = self.secrets.attempt(plan.id, *keep).get("next")
            keys |= {own} if own is not None else set()
        end = number if lives else plan.rules.rounds + 1
        self.secrets.keep_only(plan.id, keep, end, keys)

    def _case(self, plan: Plan, round: Round) -> Case:
        occasion = Occasion(self.genesis, plan.id, round.number, round.attempt)
        vault = self.secrets.attempt(plan.id, round.number, round.attempt)
        return Case(plan, round, occasion, vault)

    async def _do(self, command: t.Work, case: Case) -> None:
        match command:
            case t.Deal():
                await self.secrets.in_turn(self._deal, case)
            case t.Recall(attempt):
                keys = await self.secrets.in_turn(case.vault.get, "keys")
                self.held.keys.setdefault(attempt, keys or b"")
            case t.DrawKey(attempt):
                key = await self.secrets.in_turn(self._next_key, case)
                self.held.next_keys[attempt] = Digest(key)
            case t.CheckShares(dealers=dealers):
                await self._check_shares(case, dealers)
            case t.CheckAnswer(attempt, epoch, dealer, complainant, share):
                points = (await self._commitments(case, dealer))[epoch]
                right = shares.is_good(share, complainant, points)
                self.held.answers[attempt, epoch, dealer, complainant] = right
            case t.FindAnswer(attempt, epoch, complainant):
                dealt = await self.secrets.in_turn(self._own_share, case, epoch, complainant)
                if dealt is not None:
                    self.held.own_shares[attempt, epoch, complainant] = dealt
            case t.Mask():
                await self._mask(case, command)
            case t.AddUp(attempt, epoch, posted):
                self.held.sums[attempt, epoch] = await self._add_up(case, posted)
            case t.HoldSum(attempt, epoch, total):
                await self._hold_sum(case, command)
                self.held.pulled_sums.add((attempt, epoch, total))
            case t.FindReveal():
                await self.secrets.in_turn(self._find_reveal, case, command)
            case t.OpenSum():
                await self._open_sum(case, command)

    # Before the close.

    def _deal(self, case: Case) -> None:
        """Draw this attempt's keys, or take them out of the vault; make the envelope."""
        vault, entropy = case.vault, self.secrets.entropy
        secret = _once(vault, "secret", partial(entropy, derivation.KEY_BYTES))
        following = self._next_key(case)
        dealings = [self._dealing(case, epoch) for epoch in range(EPOCHS)]
        sealed = self.store.add_bytes(self._seal(case, secret, dealings))
        self.blobs.note(case.round.number, sealed)
        first = tuple(dealing.commitments[0] for dealing in dealings)
        keys = Keys(derivation.public_key(secret), first, sealed, following).encode()
        vault.put("keys", keys)
        self.held.keys[case.attempt] = keys

    def _seal(self, case: Case, secret: bytes, dealings: Sequence[shares.Dealing]) -> bytes:
        """This site's envelope: the same bytes for the same receiving keys."""
        me = Party(self.me, derivation.public_key(secret))
        return envelope.seal(case.shape, me, secret, dealings)

    def _next_key(self, case: Case) -> bytes:
        """The receiving key that this site brings in this attempt, for the next: drawn once."""
        return _once(case.vault, "next", partial(self.secrets.draw_receiving_key, case.plan.id))

    def _dealing(self, case: Case, epoch: int) -> shares.Dealing:
        """The secret of an epoch, shared out to the roster: drawn once."""
        members, needed = list(members_in(case.round.roster)), case.needed

        def draw() -> bytes:
            made = shares.deal(members, needed, self.secrets.entropy)
            return b"".join((made.secret, *made.commitments, *(made.shares[i] for i in members)))

        raw = _once(case.vault, f"dealing-{epoch}", draw)
        ends = SHARE_BYTES + needed * POINT_BYTES
        points = tuple(raw[at : at + POINT_BYTES] for at in range(SHARE_BYTES, ends, POINT_BYTES))
        dealt = {
            int(i): raw[ends + at * SHARE_BYTES :][:SHARE_BYTES] for at, i in enumerate(members)
        }
        return shares.Dealing(raw[:SHARE_BYTES], points, dealt)

    # Shares.

    async def _check_shares(self, case: Case, dealers: MemberSet) -> None:
        """Open this node's shares of these dealers: each is good, wrong, or neither if that cannot
        be told. What it says of them on the chain is said of all at once, so the machine hears of
        all at once, but for those whose envelopes do not come soon."""
        verdicts = dict[MemberId, bytes | None]()

        async def check(dealer: MemberId) -> None:
            try:
                verdicts[dealer] = await self._check_share(case, dealer)
            except SwarmError as error:
                log.warning("the shares of %s: %s", self.book.name(dealer), error)

        with trio.move_on_after(SHARES_S):
            async with trio.open_nursery() as nursery:
                for dealer in members_in(dealers):
                    nursery.start_soon(check, dealer)
        for dealer, verdict in verdicts.items():
            if verdict is not None:
                kept = self.held.good if verdict[:1] == GOOD else self.held.wrong
                kept[case.attempt] = kept.get(case.attempt, 0) | 1 << dealer

    async def _check_share(self, case: Case, dealer: MemberId) -> bytes | None:
        """What this node's shares of a dealer are, or None."""
        verdict = await self.secrets.in_turn(case.vault.get, f"shares-of-{dealer}")
        if verdict is None:
            raw = await self._envelope(case, dealer)
            verdict = await self.secrets.in_turn(self._judge, case, dealer, raw)
        return verdict

    def _judge(self, case: Case, dealer: MemberId, raw: bytes) -> bytes | None:
        key = case.plan.consents[self.me].receiving_key
        secret = self.secrets.receiving_secret(case.plan.id, key)
        if secret is None:
            return None  # this node lost its key: no reason to complain
        try:
            me = Party(self.me, key)
            opened = envelope.open_shares(case.shape, case.dealer(dealer), me, secret, raw)
            verdict = GOOD + b"".join(opened)
        except ValueError as error:
            log.warning("the shares of %s are wrong: %s", self.book.name(dealer), error)
            verdict = WRONG
        case.vault.put(f"shares-of-{dealer}", verdict)
        return verdict

    def _own_share(self, case: Case, epoch: int, complainant: MemberId) -> bytes | None:
        """What this node dealt to somebody, if that is what the chain has of it, and if it was
        sealed to the keys that the roster has here: on a fork's other side the complainant may have
        another, and has nothing to complain of."""
        secret = case.vault.get("secret")
        if secret is None or case.vault.get("keys") != case.round.submissions[self.me].keys:
            return None
        dealings = [self._dealing(case, e) for e in range(EPOCHS)]
        sealed = Manifest.of_bytes(self._seal(case, secret, dealings)).root
        if sealed != case.keys_of(self.me).envelope:
            return None
        return dealings[epoch].shares.get(complainant)

    async def _envelope(self, case: Case, dealer: MemberId) -> bytes:
        digest = case.keys_of(dealer).envelope
        await self._pull(case, dealer, digest, Wish(max(case.shape.size, 1)))
        return await self.secrets.in_turn(self.store.path(digest).read_bytes)

    async def _commitments(self, case: Case, dealer: MemberId) -> tuple[tuple[bytes, ...], ...]:
        """By epoch; of an envelope that cannot be read, ones that no share is right by."""
        raw = await self._envelope(case, dealer)
        try:
            return envelope.read_commitments(case.shape, case.dealer(dealer), raw)
        except ValueError:
            return ((b"",),) * EPOCHS

    # Masking.

    async def _mask(self, case: Case, command: t.Mask) -> None:
        epoch, contributors = command.epoch, command.contributors
        kept = await self.secrets.in_turn(case.vault.get, f"masked-{epoch}")
        if kept is None:
            sums = await self._sums(case)
            kept = await self.secrets.in_turn(self._write_masked, case, sums, epoch, contributors)
        made = t.MaskedUpdate(int.from_bytes(kept[:32], "big"), Digest(kept[32:64]), kept[64:])
        self.blobs.note(case.round.number, made.digest)
        self.held.masked[case.attempt, epoch] = made

    def _write_masked(self, case: Case, sums: Sums, epoch: int, contributors: MemberSet) -> bytes:
        """Mask this site's update among these; keep what for, then let others have it."""
        round, vault = case.round, case.vault
        secret = vault.get("secret")
        if secret is None or vault.get("keys") != round.submissions[self.me].keys:
            raise LocalError("the keys of this attempt are gone: this site sits it out")
        rounding = _once(vault, "rounding", partial(self.secrets.entropy, derivation.KEY_BYTES))
        weight = case.weight(1 << self.me) if sums.base is not None else 1.0
        occasion, me = case.occasion.at(epoch, contributors), case.dealer(self.me).party
        others = [case.dealer(i).party for i in members_in(contributors & ~(1 << self.me))]
        seed = self._dealing(case, epoch).secret
        own = derivation.self_key(occasion, self.me, me.public, seed)
        pairs = [
            (derivation.pair_key(occasion, me, secret, o), masks.sign_of(self.me, o.member))
            for o in others
        ]
        out = self.store.scratch(f"masked-{round.number}-{round.attempt}-{epoch}")
        _, update = self._own_update(case)
        draw, hiding = masks.RandomWords(rounding), masks.Masks([(own, 1), *pairs])
        sums.mask(update, weight, draw, hiding, out)
        digest = self.store.add(out, Origin(self.plan, round.number, self.me))
        codes = (
            derivation.pair_code(
                derivation.pair_key(occasion, me, secret, o, derivation.CODE),
                *(self.me, epoch, digest),
            )
            for o in others
        )
        kept = contributors.to_bytes(32, "big") + digest + b"".join(codes)
        vault.put(f"masked-{epoch}", kept)
        return kept

    def _own_update(self, case: Case) -> tuple[Layout, ReadBytes]:
        """The layout of what this site has trained, and its bytes."""
        kept = self.secrets.update(case.plan.id, case.round.number, case.round.base).open(UPDATE)
        if kept is None:
            raise LocalError("what this site trained is not here any more")

        def read(start: int, stop: int) -> bytes:
            return kept.read(ABOUT_BYTES + start, ABOUT_BYTES + stop)

        header_bytes = PREFIX_BYTES + int.from_bytes(read(0, PREFIX_BYTES), "little")
        return Layout.parse(read(0, header_bytes), kept.size - ABOUT_BYTES), read

    async def _add_up(self, case: Case, posted: Mapping[MemberId, Digest]) -> Digest:
        """The name of the sum; its file is kept where others hold that instead of adding up."""
        sums, files = await self._sums(case), await self._pull_masked(case, posted)
        if case.plan.rules.verify_level is not VerifyLevel.HELD:
            return await trio.to_thread.run_sync(sums.digest, files)

        def write() -> Digest:
            out = self.store.scratch(f"sum-{case.round.number}-{case.round.attempt}")
            sums.add_up(files, out)
            return self.store.add(out)

        total = await trio.to_thread.run_sync(write)
        self.blobs.note_sum(case.round.number, total)
        return total

    async def _hold_sum(self, case: Case, command: t.HoldSum) -> None:
        """Bring a sum here from its leader, while others do, too."""
        total, leader = command.total, command.leader
        layout, number = (await self._sums(case)).words_layout, case.round.number
        spread = self.book.spread_among(leader, members_in(command.contributors))
        # Only what is a sum by its manifest is passed on.
        note = partial(self.blobs.note_sum, number, total)
        wish = Wish(layout.file_bytes, layout, spread=spread, on_open=note)
        if not self.store.has(total):
            peers = self.book.addresses([leader]) + self.book.others()
            await self.exchange.pull(
                total, peers, patience_s=PATIENCE_S, within_s=WITHIN_S, wish=wish
            )
        self.store.manifest(total).require(max_bytes=wish.max_bytes, layout=layout)
        note()

    async def _pull_masked(self, case: Case, posted: Mapping[MemberId, Digest]) -> list[Path]:
        """Where what was posted lies; it is pulled first."""
        sums = await self._sums(case)
        layout, number, came = sums.words_layout, case.round.number, list[MemberId]()
        async with trio.open_nursery() as nursery:
            for member, digest in posted.items():
                wish = Wish(layout.file_bytes, layout, origin=Origin(self.plan, number, member))
                nursery.start_soon(self._try_pull, case, member, digest, wish, came)
        if len(came) < len(posted):
            raise RemoteError("some masked updates are not here, or not their members'")
        return [self.store.path(digest) for digest in posted.values()]

    # After the lock.

    def _find_reveal(self, case: Case, command: t.FindReveal) -> None:
        alone = case.plan.id if case.plan.rules.reopens else None
        if not self.secrets.may_open(command.base, command.slot, command.owners, alone):
            log.error("round %d: another set was opened over this base", case.round.number)
            return
        revealed = case.vault.get("reveal")
        if revealed is None:
            parts = []
            for owner in members_in(command.owners):
                verdict = case.vault.get(f"shares-of-{owner}") or WRONG
                share = command.answers.get((command.epoch, owner, self.me), t.NO_SHARE)
                if verdict[:1] == GOOD:
                    share = verdict[1 + command.epoch * SHARE_BYTES :][:SHARE_BYTES]
                parts.append(share)
            revealed = b"".join(parts)
            case.vault.put("reveal", revealed)
        self.held.reveals[command.attempt] = revealed

    async def _open_sum(self, case: Case, command: t.OpenSum) -> None:
        """Take the self masks off, if every owner has enough good shares; write the output."""
        masking = case.round.masking
        if masking is None:
            return
        occasion = case.occasion.at(command.epoch, command.owners)
        keys = []
        for at, owner in enumerate(members_in(command.owners)):
            points = (await self._commitments(case, owner))[command.epoch]
            given = {i: raw[SHARE_BYTES * at :][:SHARE_BYTES] for i, raw in command.reveals.items()}
            seed = await self.secrets.in_turn(self._combine, points, given, case.needed)
            if seed is None:
                log.warning("too few shares of %s are right so far", self.book.name(owner))
                return
            public = case.keys_of(owner).public
            keys.append(derivation.self_key(occasion, owner, public, seed))
        sums = await self._sums(case)
        if case.plan.rules.verify_level is VerifyLevel.HELD:
            lock = t.HoldSum(
                case.attempt, command.epoch, command.total, self.me, masking.contributors
            )
            await self._hold_sum(case, lock)
            files = [self.store.path(command.total)]
        else:
            files = await self._pull_masked(case, masking.posted)
        work = partial(self._write_model, case, sums, files, keys, command.owners)
        model = await trio.to_thread.run_sync(work)
        self.held.models[command.attempt] = model

    def _combine(
        self, points: tuple[bytes, ...], given: Mapping[MemberId, bytes], needed: int
    ) -> bytes | None:
        """The secret behind shares; None if too few are right by its commitments."""
        good: dict[int, bytes] = {}
        for member, share in given.items():
            if len(good) < needed and shares.is_good(share, member, points):
                good[member] = share
            elif share != t.NO_SHARE and len(good) < needed:
                log.warning("%s has revealed a wrong share", self.book.name(member))
        return shares.combine(good) if len(good) == needed else None

    def _write_model(
        self, case: Case, sums: Sums, files: list[Path], keys: list[bytes], owners: MemberSet
    ) -> Digest:
        hiding = masks.Masks([(key, -1) for key in keys])
        weight = case.weight(owners) if sums.base is not None else 1.0
        out = self.store.scratch(f"opened-{case.round.number}-{case.round.attempt}")
        if not sums.open(files, hiding, weight, owners.bit_count(), out):
            log.error("the masked sum of round %d was spoiled", case.round.number)
            return NO_DIGEST
        model = self.store.add(out)
        self.blobs.note(case.round.number, model)
        return model

    # Shared by these.

    async def _sums(self, case: Case) -> Sums:
        """How this round's updates become words and an output."""
        round, members = case.round, case.round.roster.bit_count()
        if self._stage(round.number).slot != MODEL_SLOT:
            layout, _ = await self.secrets.in_turn(self._own_update, case)
            return Sums(grid_of(self._stage(round.number), members), layout, None, members)
        return await self._sums_of_model(round.number, round.base, members)

    async def _sums_of_model(self, number: int, base: Digest, members: int) -> Sums:
        layout = (await self.layouts.folding(number)).up
        if not self.store.has(base):
            raise RemoteError("the model that this round began from is not here yet")
        began = await trio.to_thread.run_sync(open_file, self.store.path(base))
        return Sums(grid_of(self._stage(number), members), layout, began, members)

    def _stage(self, number: int) -> Stage:
        place = self.program.place(number)
        if place is None:
            raise RemoteError(f"the plan has no round {number}")
        return place.stage

    async def _try_pull(
        self, case: Case, owner: MemberId, blob: Digest, wish: Wish, came: list[MemberId]
    ) -> None:
        try:
            await self._pull(case, owner, blob, wish)
            came.append(owner)
        except SwarmError as error:
            log.warning("the masked update of %s: %s", self.book.name(owner), error)

    async def _pull(self, case: Case, owner: MemberId, blob: Digest, wish: Wish) -> None:
        if not self.store.has(blob):
            peers = self.book.addresses([owner]) + self.book.others()
            if wish.max_bytes > SMALL_BYTES:  # all of it from its owner, while that gives it
                wish = replace(wish, spread=self.book.spread_of_update(owner))
            await self.exchange.pull(
                blob, peers, patience_s=PATIENCE_S, within_s=WITHIN_S, wish=wish
            )
        # What is here already may be another's, or something else, that somebody posted as its own.
        self.store.manifest(blob).require(
            max_bytes=wish.max_bytes, layout=wish.layout, origin=wish.origin
        )
        self.blobs.note(case.round.number, blob)


def _once(vault: Vault, entry: str, make: Callable[[], bytes]) -> bytes:
    """An entry of a vault, made now if there is none: the same for ever after."""
    found = vault.get(entry)
    if found is None:
        found = make()
        vault.put(entry, found)
    return found
