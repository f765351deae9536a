"""What a coalition can compute from all that it sees of masked rounds: linear algebra, no guessing.

Everything that enters a masked update is an unknown: an honest member's update, a mask of a pair, a
self mask. Whatever a coalition sees (a masked update, a revealed mask, a value of its own) is a row
with coefficients. `Knowledge` tells which combinations of updates alone follow from the rows, and
`Eavesdroppers` raises Violation as soon as one comes out that is no combination of locked sums.

Why that is sound, and misses nothing. Rows are added, as bytes are, in the ring Z/2³². With masks
that are uniform and independent, what is seen is distributed uniformly over M·x + im(R), for the
parts M of the rows on updates and R on masks. Two choices of x look alike if and only if
M·(x − x') lies in im(R); as Z/2³² is a quasi-Frobenius ring, im(R) is all that is annihilated by
every c with cR = 0; so they look alike if and only if cM·x = cM·x' for these c. The combinations cM
are what `Knowledge.of_updates` spans, so nobody without a bound on computation learns more, and
whoever adds learns as much. Elimination over a prime field would err on both sides: with x + a + b
and a − b it finds nothing, while 2³¹ times their difference is the lowest bit of x; with x + a and
2a it finds x, while its highest bit is safe. So the rows are kept in Howell's normal form (Howell
1986; Storjohann and Mulders 1998), which has for any order of columns what Gauss' has over fields:
the rows that begin late span everything that begins late. Masks come first, updates last.

That masks are uniform and independent is what keystreams of different keys stand for; that no key
is used for two inputs is checked beside it (`Keystreams`).
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from itertools import combinations, product

from harness.simnet import Violation

BITS = 32
_WHOLE = 1 << BITS

Unknown = Hashable
Row = Mapping[Unknown, int]
_Sparse = dict[tuple[int, int], int]


class Knowledge:
    """All combinations of rows, in Howell's normal form over Z/2³², row by row.

    `is_update` tells the unknowns that matter from the masks around them.
    """

    def __init__(self, updates: Collection[Unknown] | None = None) -> None:
        self._columns: dict[Unknown, tuple[int, int]] = {}
        self._names: dict[tuple[int, int], Unknown] = {}
        self._basis: dict[tuple[int, int], _Sparse] = {}
        self._updates = updates
        self.changes = 0
        """How often what is known of updates alone has changed."""

    def learn(self, row: Row) -> None:
        """Add one row."""
        waiting = [self._sparse(row)]
        while waiting:
            waiting += self._insert(waiting.pop())

    def implies(self, row: Row) -> bool:
        """Whether this row is a combination of what was learned."""
        left = self._sparse(row)
        while left:
            first = min(left)
            known = self._basis.get(first)
            if known is None or left[first] % known[first]:
                return False
            left = _minus(left, known, left[first] // known[first])
        return True

    def of_updates(self) -> Iterator[dict[Unknown, int]]:
        """Combinations of updates alone that span all such combinations."""
        for first, row in self._basis.items():
            if first[0] == 1:
                yield {self._names[c]: _signed(value) for c, value in row.items()}

    def _insert(self, row: _Sparse) -> list[_Sparse]:
        """Reduce a row, keep what is new of it; rows that must be inserted as well."""
        while row:
            first = min(row)
            known = self._basis.get(first)
            if known is None:
                return self._keep(first, row)
            if row[first] % known[first] == 0:
                row = _minus(row, known, row[first] // known[first])
                continue
            more = self._keep(first, row)
            return [*more, known]  # its first coefficient is divisible by the new row's
        return []

    def _keep(self, first: tuple[int, int], row: _Sparse) -> list[_Sparse]:
        value = row[first]
        power = value & -value
        kept = _times(row, pow(value // power, -1, _WHOLE))
        self._basis[first] = kept
        self.changes += first[0]
        # What annihilates the first coefficient leaves a row that begins later.
        return [_times(kept, _WHOLE // power)] if power > 1 else []

    def _sparse(self, row: Row) -> _Sparse:
        return {self._column(u): v % _WHOLE for u, v in row.items() if v % _WHOLE}

    def _column(self, unknown: Unknown) -> tuple[int, int]:
        column = self._columns.get(unknown)
        if column is None:
            is_update = self._updates is None or unknown in self._updates
            column = self._columns[unknown] = (int(is_update), len(self._columns))
            self._names[column] = unknown
        return column


def _times(row: _Sparse, factor: int) -> _Sparse:
    scaled = {c: v * factor % _WHOLE for c, v in row.items()}
    return {c: v for c, v in scaled.items() if v}


def _minus(row: _Sparse, other: _Sparse, factor: int) -> _Sparse:
    left = dict(row)
    for column, value in other.items():
        changed = (left.get(column, 0) - factor * value) % _WHOLE
        if changed:
            left[column] = changed
        else:
            left.pop(column, None)
    return left


def _signed(value: int) -> int:
    return value - _WHOLE if value >= _WHOLE // 2 else value


class Coalition:
    """What some members know together, and what of it is their own."""

    def __init__(self, members: frozenset[int], updates: Collection[Unknown]) -> None:
        self.members = members
        self.known = Knowledge(updates)
        self.own: list[Row] = []
        self._checked: dict[object, tuple[int, int]] = {}
        self._shares: dict[Unknown, set[int]] = {}
        self.secrets: set[Unknown] = set()

    def hold_share(self, secret: Unknown, index: int, threshold: int) -> bool:
        """Note a share; whether the secret is known with it."""
        held = self._shares.setdefault(secret, set())
        held.add(index)
        return len(held) >= threshold

    def find_leak(self, allowed: Iterable[Row]) -> dict[Unknown, int] | None:
        """A combination of updates that is known, and is none of what is allowed or its own."""
        rows, now = tuple(allowed), (self.known.changes, len(self.own))
        choice = tuple(map(id, rows))
        if self._checked.get(choice) == now:
            return None  # nothing has changed since this was asked before
        may_know = Knowledge()
        for row in (*self.own, *rows):
            may_know.learn(row)
        leak = next((r for r in self.known.of_updates() if not may_know.implies(r)), None)
        if leak is None:
            self._checked[choice] = now
        return leak


class Eavesdroppers:
    """Every coalition of up to `colluders` of these members, and whoever only reads the chain.

    `exposed` are those who make others publish what only they knew: each coalition has it as well,
    so they count in each.

    Tell it all that any member makes, sends or publishes, and what is locked. Each call raises
    Violation if somebody then knows what is no combination of locked sums and own updates. Masks
    follow from secrets (`derive`), and secrets from enough shares, or from a key that opens them.
    """

    def __init__(
        self, members: Iterable[int], colluders: int, exposed: Collection[int] = ()
    ) -> None:
        others = sorted(set(members) - set(exposed))
        self._updates: set[Unknown] = set()
        sets = [
            frozenset((*exposed, *chosen))
            for size in range(colluders - len(exposed) + 1)
            for chosen in combinations(others, size)
        ]
        readers = [] if frozenset() in sets else [frozenset[int]()]
        self.coalitions = [Coalition(members, self._updates) for members in (*readers, *sets)]
        self._locked: dict[Unknown, list[Row]] = {}
        self._masks: dict[Unknown, list[Unknown]] = {}
        self._sealed: dict[Unknown, list[tuple[Unknown, int, int]]] = {}

    def make_update(self, owner: int, update: Unknown) -> None:
        """`owner` has made an update: a coalition of its may know it."""
        self._updates.add(update)
        for coalition in self._with(owner):
            coalition.known.learn({update: 1})
            coalition.own.append({update: 1})

    def derive(self, mask: Unknown, *secrets: Unknown) -> None:
        """A mask follows from each of these secrets."""
        for secret in secrets:
            self._masks.setdefault(secret, []).append(mask)
            for coalition in self.coalitions:
                if secret in coalition.secrets:
                    coalition.known.learn({mask: 1})
        self._check()

    def tell(self, owner: int, secret: Unknown) -> None:
        """`owner` knows a secret."""
        for coalition in self._with(owner):
            self._learn(coalition, secret)
        self._check()

    def publish(self, row: Row) -> None:
        """Anyone may see this sum of unknowns."""
        for coalition in self.coalitions:
            coalition.known.learn(row)
        self._check()

    def publish_secret(self, secret: Unknown) -> None:
        """Anyone may know this secret: it was stolen, say."""
        for coalition in self.coalitions:
            self._learn(coalition, secret)
        self._check()

    def seal_share(self, key: Unknown, secret: Unknown, index: int, threshold: int) -> None:
        """Whoever has the secret `key` can read a share of another secret."""
        self._sealed.setdefault(key, []).append((secret, index, threshold))
        for coalition in self.coalitions:
            if key in coalition.secrets and coalition.hold_share(secret, index, threshold):
                self._learn(coalition, secret)
        self._check()

    def publish_share(self, secret: Unknown, index: int, threshold: int) -> None:
        """Anyone can read a share."""
        for coalition in self.coalitions:
            if coalition.hold_share(secret, index, threshold):
                self._learn(coalition, secret)
        self._check()

    def lock(self, updates: Iterable[Unknown], what: Unknown = None) -> None:
        """The sum of these updates may come out from now on. Of several such sums for the same
        `what` (on the sides of a fork, say) no coalition may have more than one."""
        row = dict.fromkeys(updates, 1)
        choices = self._locked.setdefault(what, [])
        if row not in choices:
            choices.append(row)
        self._check()

    def lose(self, update: Unknown) -> None:
        """An update was stolen where it lay: nothing could protect it."""
        for coalition in self.coalitions:
            coalition.known.learn({update: 1})
            coalition.own.append({update: 1})
        self._check()

    def _learn(self, coalition: Coalition, secret: Unknown) -> None:
        if secret in coalition.secrets:
            return
        coalition.secrets.add(secret)
        for mask in self._masks.get(secret, ()):
            coalition.known.learn({mask: 1})
        for share in self._sealed.get(secret, ()):
            if coalition.hold_share(*share):
                self._learn(coalition, share[0])

    def _with(self, member: int) -> list[Coalition]:
        return [c for c in self.coalitions if member in c.members]

    def _check(self) -> None:
        for coalition in self.coalitions:
            leak = None
            for allowed in product(*self._locked.values()):
                leak = coalition.find_leak(allowed)
                if leak is None:
                    break
            if leak is not None:
                who = " and ".join(f"n{i}" for i in sorted(coalition.members)) or "a reader"
                told = " ".join(f"{v:+d}·{u}" for u, v in leak.items())
                raise Violation(f"{who} can compute {told}, which is no locked sum")


class Keystreams:
    """One keystream, one input: a key that meets two inputs gives away their difference.

    Both members of a pair use its key, with opposite signs: so it is one input for each of them.
    """

    def __init__(self) -> None:
        self._inputs: dict[tuple[int, Unknown], Unknown] = {}

    def use(self, member: int, key: Unknown, masked: Unknown) -> None:
        """`member` adds the keystream of `key` to `masked`. Raises Violation for a second input."""
        before = self._inputs.setdefault((member, key), masked)
        if before != masked:
            raise Violation(f"n{member} hides both {before} and {masked} with the key {key}")
