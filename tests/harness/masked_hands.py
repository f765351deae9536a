"""The hands of a masked round in simulated days: real decisions, symbolic cryptography.

A key, a seed or a mask is a name; two parties derive the same mask if all that goes into its name
is the same. A masked update is a row of unknowns, as the eavesdropper takes it, so hiding, adding
and taking off are arithmetic on rows. A node's disk survives its crashes, `Holdings` do not.
Each method is one rule of docs/decisions/0019-secure-rounds.md, and can be planted wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from harness.eavesdropper import Eavesdroppers, Keystreams, Unknown
from harness.names import name
from swarm.protocol import masked_table as t
from swarm.protocol.masking import CODE_BYTES, EPOCHS, Keys, read_keys
from swarm.protocol.state import MemberSet, Plan, Round, members_in
from swarm.types import NO_DIGEST, Digest, MemberId, PlanId

Attempt = tuple[PlanId, int, int]
Row = dict[Unknown, int]


@dataclass
class Disk:
    """What survives a crash, of one node."""

    receiving: dict[bytes, Unknown] = field(default_factory=dict)
    """By public key, the secret behind a receiving key."""
    vaults: dict[Attempt, dict[str, Any]] = field(default_factory=dict)
    updates: dict[tuple[object, ...], Unknown] = field(default_factory=dict)
    """What this site has trained, by base and slot; one for each plan that trained anew."""
    opened: dict[tuple[object, ...], MemberSet] = field(default_factory=dict)
    """Whose sum it has helped to open, by base and slot."""
    derivable: list[Unknown] = field(default_factory=list)
    """Secrets that follow from the node key; there are none."""


@dataclass(frozen=True)
class Envelope:
    """A dealer's: shares by recipient, sealed to a key, and what is bound to them."""

    bound: tuple[object, ...]
    secret: Unknown
    """Of the dealer, with which they were sealed."""
    sealed: Mapping[int, bytes]
    """The receiving key of each."""
    shares: Mapping[int, tuple[bytes, ...]]


@dataclass(frozen=True)
class Hidden:
    """A masked update, or a sum of several."""

    row: tuple[tuple[Unknown, int], ...]


class World(Protocol):
    """What hands need of their world."""

    ears: Eavesdroppers
    streams: Keystreams
    blobs: dict[Digest, object]
    secret_of: dict[bytes, Unknown]
    """Of public things: keys, and commitments to seeds."""
    noise: set[Digest]
    """Masked updates, and sums, that are not what they should be."""

    def fresh(self) -> int: ...
    def count(self, what: str) -> None: ...
    def check_reveal(
        self, node: int, round: Round, owners: MemberSet, seeds: Mapping[int, Unknown]
    ) -> None: ...


class Hands:
    """One node's work for one plan. `held` is what its decisions see of it."""

    def __init__(self, world: World, me: MemberId, disk: Disk, vices: frozenset[str]) -> None:
        self.world, self.me, self.disk, self.vices = world, me, disk, vices
        self.held = t.Holdings()

    def obey(self, command: t.Command, plan: Plan, round: Round) -> None:
        """Do what a decision asked for; what cannot be done now is asked for again."""
        here = (plan.id, round.number, round.attempt)
        match command:
            case t.Deal():
                self.deal(plan, round)
            case t.Recall(attempt):
                self.held.keys.setdefault(attempt, b"")  # unless the vault has some
            case t.DrawKey():
                self.draw_key(plan, round)
            case t.CheckShares(_, dealers):
                for dealer in members_in(dealers):
                    self.check_share(plan, round, dealer)
            case t.CheckAnswer(attempt, epoch, dealer, complainant, share):
                right = share == self.share_of(round, dealer, epoch, complainant)
                self.held.answers[attempt, epoch, dealer, complainant] = right
            case t.FindAnswer(attempt, epoch, complainant):
                self.find_answer(plan, round, epoch, complainant)
            case t.Mask(attempt, epoch, contributors):
                self.mask(plan, round, epoch, contributors)
            case t.AddUp(attempt, epoch, posted):
                self.add_up(attempt, epoch, posted)
            case t.HoldSum(attempt, epoch, total):
                if total in self.world.blobs:
                    self.held.pulled_sums.add((attempt, epoch, total))
                    self.world.count("sums held")
            case t.FindReveal():
                self.find_reveal(plan, round, command)
            case t.OpenSum():
                self.open_sum(round, command)
        if here in self.disk.vaults:
            self.restore(here)

    def restore(self, here: Attempt) -> None:
        """Decisions see what the vault has."""
        kept, attempt = self.disk.vaults[here], here[1:]
        if "keys" in kept:
            self.held.keys[attempt] = kept["keys"]
        if "next" in kept:
            self.held.next_keys[attempt] = Digest(kept["next"])
        self.held.good[attempt], self.held.wrong[attempt] = (
            kept.get("good", 0),
            kept.get("wrong", 0),
        )
        for epoch, update in kept.get("masked", {}).items():
            self.held.masked[attempt, epoch] = update

    def vault(self, plan: Plan, round: Round) -> dict[str, Any]:
        """The vault of this attempt."""
        return self.disk.vaults.setdefault((plan.id, round.number, round.attempt), {})

    def erase(self, plan: Plan, keep: Attempt | None, lives: bool) -> None:
        """What is over leaves no secret behind: neither its vault nor the key that its shares were
        sealed to. `keep` is the attempt that runs, if one does; `lives`: more may come."""
        for here in [h for h in self.disk.vaults if h[0] == plan.id and h != keep]:
            del self.disk.vaults[here]
        consent, wanted = plan.consents.get(self.me), set[bytes]()
        if consent is not None and lives:
            wanted.add(bytes(consent.next_receiving_key))
            if keep is not None or not self.is_spent(plan):
                wanted.add(bytes(consent.receiving_key))
            wanted |= {v["next"] for v in self.disk.vaults.values() if "next" in v}
        self.forget_receiving(plan, wanted)

    def is_spent(self, plan: Plan) -> bool:
        """Whether this attempt's receiving key counts in no other."""
        return plan.round is not None and plan.round.masking is not None

    def forget_receiving(self, plan: Plan, wanted: set[bytes]) -> None:
        """Keep no receiving key of the plan but these."""
        for public, secret in list(self.disk.receiving.items()):
            if isinstance(secret, tuple) and secret[1] == plan.id and public not in wanted:
                del self.disk.receiving[public]

    # Before the close.

    def deal(self, plan: Plan, round: Round) -> None:
        """Draw this attempt's keys, unless the vault has them; keep them; make the envelope."""
        vault = self.vault(plan, round)
        if "keys" in vault:
            return
        pk, sk = self.make_key("sk", plan, round)
        next_key = self.draw_key(plan, round)
        seeds = [self.make_seed(plan, round, epoch) for epoch in range(EPOCHS)]
        keys = Keys(pk, tuple(first for first, _ in seeds), NO_DIGEST, next_key)
        envelope = self.make_envelope(plan, round, keys, [seed for _, seed in seeds])
        keys = keys._replace(envelope=name("envelope", envelope))
        self.world.blobs[keys.envelope] = envelope
        vault.update(keys=keys.encode(), sk=sk, seeds=seeds)

    def draw_key(self, plan: Plan, round: Round) -> bytes:
        """The receiving key for the next attempt: drawn once, and kept."""
        vault = self.vault(plan, round)
        if "next" not in vault:
            vault["next"], secret = self.make_key("receiving", plan, round)
            self.disk.receiving[vault["next"]] = secret
        key: bytes = vault["next"]
        return key

    def make_key(self, kind: str, plan: Plan, round: Round) -> tuple[bytes, Unknown]:
        """A fresh key pair: its public key, and the name of its secret."""
        secret = (kind, plan.id, self.me, self.world.fresh())
        public = name("public", secret)
        self.world.secret_of[public] = secret
        self.world.ears.tell(self.me, secret)
        return public, secret

    def make_seed(self, plan: Plan, round: Round, epoch: int) -> tuple[bytes, Unknown]:
        """A fresh seed of a self mask: its commitment, and its name."""
        seed = ("seed", plan.id, self.me, epoch, self.world.fresh())
        first = name("first", seed) + b"\2"
        self.world.secret_of[first] = seed
        self.world.ears.tell(self.me, seed)
        return first, seed

    def bound(self, plan: Plan, round: Round, dealer: int, keys: Keys) -> tuple[object, ...]:
        """What an envelope's shares are bound to, beside recipient and its key."""
        return (plan.id, round.number, round.attempt, dealer, keys.public, keys.first)

    def make_envelope(self, plan: Plan, round: Round, keys: Keys, seeds: list[Unknown]) -> Envelope:
        """Seal each roster member's shares to its receiving key of this attempt, if it has one."""
        sealed, shares = {}, {}
        needed = self.needed(plan, round)
        for member in members_in(round.roster):
            key = bytes(plan.consents[member].receiving_key)
            if key == NO_DIGEST:
                continue  # it has no key that counts
            mine = [name("share", seed, member) for seed in seeds]
            if "deals badly" in self.vices and member == self.spited(round):
                mine = [name("wrong", seed, member) for seed in seeds]
            sealed[int(member)], shares[int(member)] = key, tuple(mine)
            for seed in seeds:
                self.world.ears.seal_share(self.world.secret_of[key], seed, member, needed)
        bound = self.bound(plan, round, self.me, keys)
        return Envelope(bound, self.world.secret_of[keys.public], sealed, shares)

    def spited(self, round: Round) -> MemberId:
        """Whom a bad dealer gives wrong shares."""
        return max(m for m in members_in(round.roster) if m != self.me)

    def needed(self, plan: Plan, round: Round) -> int:
        """How many shares open a seed."""
        return (round.roster.bit_count() + plan.rules.colluders) // 2 + 1

    # Shares.

    def keys_of(self, round: Round, member: MemberId) -> Keys:
        """What the chain has of a contributor."""
        keys = read_keys(round.submissions[member].keys)
        assert keys is not None
        return keys

    def share_of(self, round: Round, dealer: MemberId, epoch: int, holder: int) -> bytes:
        """The one right share, by the commitments."""
        return name("share", self.seed_of(round, dealer, epoch), holder)

    def seed_of(self, round: Round, dealer: MemberId, epoch: int) -> Unknown:
        """The seed behind what the dealer committed to on the chain."""
        return self.world.secret_of.get(self.keys_of(round, dealer).first[epoch])

    def check_share(self, plan: Plan, round: Round, dealer: MemberId) -> None:
        """Open this node's shares of one dealer, and check them."""
        keys = self.keys_of(round, dealer)
        envelope = self.world.blobs.get(keys.envelope)
        my_key = bytes(plan.consents[self.me].receiving_key)
        if not isinstance(envelope, Envelope) or my_key not in self.disk.receiving:
            return  # not here, or this node lost its key: no reason to complain
        opens = envelope.sealed.get(self.me) == my_key
        opens = opens and self.is_bound(plan, round, dealer, envelope)
        right = tuple(self.share_of(round, dealer, e, self.me) for e in range(EPOCHS))
        good = opens and self.is_good(envelope.shares[self.me], right)
        if "complains" in self.vices:
            good = False
            self.world.count("false complaints")
        which = "good" if good else "wrong"
        vault = self.vault(plan, round)
        if opens:
            vault.setdefault("shares", {})[int(dealer)] = envelope.shares[self.me]
        vault[which] = vault.get(which, 0) | 1 << dealer
        self.world.count("shares checked" if good else "shares refused")

    def is_bound(self, plan: Plan, round: Round, dealer: MemberId, envelope: Envelope) -> bool:
        """Whether the envelope is this dealer's, of this attempt, and made with its key."""
        keys = self.keys_of(round, dealer)
        mine = envelope.bound == self.bound(plan, round, dealer, keys)
        return mine and envelope.secret == self.world.secret_of.get(keys.public)

    def find_answer(self, plan: Plan, round: Round, epoch: int, complainant: MemberId) -> None:
        """Take a share out of this node's own dealing, if that is what the chain has, and if it was
        sealed to the key that the complainant has here: on a fork's other side it may have another,
        and has nothing to complain of."""
        if self.vault(plan, round).get("keys") != round.submissions[self.me].keys:
            return
        envelope = self.world.blobs[self.keys_of(round, self.me).envelope]
        key = bytes(plan.consents[complainant].receiving_key)
        if not isinstance(envelope, Envelope) or envelope.sealed.get(complainant) != key:
            return
        share = self.share_of(round, self.me, epoch, complainant)
        self.held.own_shares[(round.number, round.attempt), epoch, complainant] = share
        self.world.count("complaints answered")
        self.publish_share(round, self.me, epoch, complainant, share)

    def is_good(self, shares: tuple[bytes, ...], right: tuple[bytes, ...]) -> bool:
        """Whether shares are what was committed to."""
        return shares == right

    def publish_share(
        self, round: Round, dealer: MemberId, epoch: int, holder: int, share: bytes
    ) -> None:
        """From here on anyone may have this share."""
        seed, masking = self.seed_of(round, dealer, epoch), round.masking
        assert masking is not None
        if share == name("share", seed, holder):
            self.world.ears.publish_share(seed, holder, masking.needed)

    # Masking.

    def pair_mask(self, plan: Plan, round: Round, epoch: int, i: int, j: int) -> Unknown:
        """The mask of a pair: what both derive, from all that is bound to it."""
        masking = round.masking
        assert masking is not None
        low, high = sorted((MemberId(i), MemberId(j)))
        one, other = self.keys_of(round, low).public, self.keys_of(round, high).public
        agreed = tuple(sorted((one, other)))
        occasion = (plan.id, round.number, round.attempt, epoch, masking.contributors)
        return self.name_pair(agreed, occasion, (low, high))

    def name_pair(
        self, agreed: tuple[bytes, ...], occasion: tuple[object, ...], pair: tuple[int, int]
    ) -> Unknown:
        """HKDF of what a pair agreed on, with its info."""
        mask = ("pair", agreed, occasion, pair)
        secrets = [self.world.secret_of[public] for public in agreed]
        self.world.ears.derive(mask, *(s for s in secrets if s is not None))
        return mask

    def self_mask(self, plan: Plan, round: Round, epoch: int, owner: MemberId) -> Unknown:
        """The self mask of an owner, from its seed of this epoch."""
        masking = round.masking
        assert masking is not None
        seed = self.seed_of(round, owner, epoch)
        mask = ("self", seed, epoch, masking.contributors, int(owner))
        self.world.ears.derive(mask, seed)
        return mask

    def update(self, plan: Plan, round: Round) -> Unknown:
        """What this site has trained from this base: once, kept, and used in every attempt."""
        key: tuple[object, ...] = (round.base, round.stage)
        if plan.rules.reopens:
            key = (*key, plan.id)
        if key not in self.disk.updates:
            self.disk.updates[key] = made = ("x", int(self.me), *key)
            self.world.ears.make_update(self.me, made)
        return self.disk.updates[key]

    def rounding(self, plan: Plan, round: Round) -> Unknown:
        """How the update was rounded: once an attempt, kept with it."""
        vault = self.vault(plan, round)
        if "rounding" not in vault:
            vault["rounding"] = self.world.fresh()
        rounded: Unknown = vault["rounding"]
        return rounded

    def mask(self, plan: Plan, round: Round, epoch: int, contributors: MemberSet) -> None:
        """Mask once, keep what for, then let anybody have it."""
        made = self.vault(plan, round).setdefault("masked", {})
        if epoch in made:
            return
        row: Row = {self.update(plan, round): 1}
        masks: list[tuple[Unknown, int]] = [(self.self_mask(plan, round, epoch, self.me), 1)]
        for other in members_in(contributors & ~(1 << self.me)):
            sign = 1 if self.me < other else -1
            masks.append((self.pair_mask(plan, round, epoch, self.me, other), sign))
        hidden = (self.update(plan, round), self.rounding(plan, round), epoch, contributors)
        for key, sign in masks:
            if not self.vices:  # what a liar gives away of itself is its own affair
                self.world.streams.use(self.me, key, hidden)
            row[key] = row.get(key, 0) + sign
        if self.vault(plan, round).get("keys") != round.submissions[self.me].keys:
            row = {}  # a copied key masks nothing
        if "posts noise" in self.vices or not row:
            row["noise", int(self.me), self.world.fresh()] = 1
        self.world.ears.publish(row)
        blob = Hidden(tuple(row.items()))
        digest = name("masked", self.me, blob)
        self.world.blobs[digest] = blob
        if any(isinstance(unknown, tuple) and unknown[0] == "noise" for unknown in row):
            self.world.noise.add(digest)
        codes = bytes(CODE_BYTES * (contributors.bit_count() - 1))
        made[epoch] = t.MaskedUpdate(contributors, digest, codes)
        self.world.count("masked updates")

    def add_up(
        self, attempt: tuple[int, int], epoch: int, posted: Mapping[MemberId, Digest]
    ) -> None:
        """The sum of what was posted, if all of it is here."""
        total: Row = {}
        for member in sorted(posted):
            blob = self.world.blobs.get(posted[member])
            if not isinstance(blob, Hidden):
                return
            for unknown, value in blob.row:
                total[unknown] = total.get(unknown, 0) + value
        is_wrong = "adds up wrong" in self.vices
        if is_wrong:
            total["noise", int(self.me), self.world.fresh()] = 1
        hidden = Hidden(tuple(sorted(((u, v) for u, v in total.items() if v), key=repr)))
        digest = name("sum", hidden)
        self.world.blobs[digest] = hidden
        if is_wrong:
            self.world.noise.add(digest)
        self.held.sums[attempt, epoch] = digest

    # After the lock.

    def may_open(self, plan: Plan, command: t.FindReveal) -> bool:
        """Write down whose sum is opened for this base and slot: never another's after it."""
        key = (command.base, command.slot, plan.id if plan.rules.reopens else None)
        return self.disk.opened.setdefault(key, command.owners) == command.owners

    def find_reveal(self, plan: Plan, round: Round, command: t.FindReveal) -> None:
        """Take this node's shares out of the vault, once it may open this sum."""
        attempt, masking = command.attempt, round.masking
        assert masking is not None
        if not self.may_open(plan, command):
            self.world.count("reveals refused")
            return
        good = self.held.good.get(attempt, 0)
        parts = []
        for owner in members_in(command.owners):
            share = t.NO_SHARE
            if good >> owner & 1:
                shares = self.vault(plan, round).get("shares", {})
                share = shares[int(owner)][command.epoch] if int(owner) in shares else share
            else:
                share = command.answers.get((command.epoch, owner, self.me), share)
            if "reveals badly" in self.vices:
                share = name("bad reveal", self.me, owner)
            parts.append(share)
        seeds = {int(o): self.seed_of(round, o, command.epoch) for o in members_in(command.owners)}
        self.world.check_reveal(self.me, round, command.owners, seeds)
        for owner, share in zip(members_in(command.owners), parts, strict=True):
            self.publish_share(round, owner, command.epoch, self.me, share)
        self.held.reveals[attempt] = b"".join(parts)
        self.world.count("reveals")

    def open_sum(self, round: Round, command: t.OpenSum) -> None:
        """Check the reveals; take the self masks off, if every owner has enough good ones."""
        masking, total = round.masking, self.world.blobs.get(command.total)
        if masking is None or not isinstance(total, Hidden):
            return
        right = True
        for at, owner in enumerate(members_in(command.owners)):
            good = [
                member
                for member, raw in command.reveals.items()
                if self.is_right_reveal(round, owner, command.epoch, member, raw[32 * at :][:32])
            ]
            if len(good) < masking.needed:
                return
            used = good[: masking.needed]
            for member in used:
                share = self.share_of(round, owner, command.epoch, member)
                right &= command.reveals[member][32 * at :][:32] == share
        left = [(u, v) for u, v in total.row if not self.is_self_mask(u)]
        owners = [u[1] for u, _ in left if isinstance(u, tuple) and u[0] == "x"]
        clean = right and len(owners) == len(left) and all(value == 1 for _, value in left)
        clean = clean and sorted(owners) == list(members_in(command.owners))
        self.held.models[command.attempt] = self.conclude(round, [u for u, _ in left], clean)

    def conclude(self, round: Round, updates: list[Unknown], clean: bool) -> Digest:
        """The model that comes of a sum; none if zero words or the norm say it was spoiled."""
        return name("model", round.base, updates) if clean else NO_DIGEST

    def is_right_reveal(
        self, round: Round, owner: MemberId, epoch: int, member: MemberId, share: bytes
    ) -> bool:
        """Whether a revealed share is what was committed to."""
        right = share == self.share_of(round, owner, epoch, member)
        if not right and share != t.NO_SHARE:
            self.world.count("bad reveals named")
        return right

    @staticmethod
    def is_self_mask(unknown: Unknown) -> bool:
        """Whether this comes off once its owner's seed is known."""
        return isinstance(unknown, tuple) and unknown[0] == "self"
