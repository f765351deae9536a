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
from itertools import combinations

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
    """What some members know together, and what they may know."""

    def __init__(self, members: frozenset[int], updates: Collection[Unknown]) -> None:
        self.members = members
        self.known = Knowledge(updates)
        self.allowed = Knowledge()
        self._shares: dict[Unknown, set[int]] = {}

    def hold_share(self, secret: Unknown, index: int, threshold: int) -> bool:
        """Note a share; whether the secret is known with it, for the first time."""
        held = self._shares.setdefault(secret, set())
        if index in held:
            return False
        held.add(index)
        if len(held) == threshold:
            self.known.learn({secret: 1})
            return True
        return False

    def find_leak(self) -> dict[Unknown, int] | None:
        """A combination of updates that is known and should not be."""
        return next((r for r in self.known.of_updates() if not self.allowed.implies(r)), None)


class Eavesdroppers:
    """Every coalition of up to `colluders` of these members, and whoever only reads the chain.

    Tell it all that any member makes, sends or publishes, and what is locked. Each call raises
    Violation if somebody then knows what is no combination of locked sums and own updates.
    """

    def __init__(self, members: Iterable[int], colluders: int) -> None:
        ordered = sorted(members)
        self._updates: set[Unknown] = set()
        self.coalitions = [
            Coalition(frozenset(chosen), self._updates)
            for size in range(colluders + 1)
            for chosen in combinations(ordered, size)
        ]

    def make_update(self, owner: int, update: Unknown) -> None:
        """`owner` has made an update: a coalition of its may know it."""
        self._updates.add(update)
        for coalition in self._with(owner):
            coalition.known.learn({update: 1})
            coalition.allowed.learn({update: 1})

    def know(self, owner: int, unknown: Unknown) -> None:
        """`owner` knows a mask."""
        for coalition in self._with(owner):
            coalition.known.learn({unknown: 1})
        self._check(self._with(owner))

    def publish(self, row: Row) -> None:
        """Anyone may see this sum of unknowns."""
        for coalition in self.coalitions:
            coalition.known.learn(row)
        self._check(self.coalitions)

    def give_share(self, holder: int, secret: Unknown, index: int, threshold: int) -> None:
        """`holder` can read the share number `index` of a mask."""
        told = [c for c in self._with(holder) if c.hold_share(secret, index, threshold)]
        self._check(told)

    def publish_share(self, secret: Unknown, index: int, threshold: int) -> None:
        """Anyone can read a share."""
        self._check([c for c in self.coalitions if c.hold_share(secret, index, threshold)])

    def lock(self, updates: Iterable[Unknown]) -> None:
        """The sum of these updates may come out from now on."""
        row = dict.fromkeys(updates, 1)
        for coalition in self.coalitions:
            coalition.allowed.learn(row)

    def lose(self, owner: int, update: Unknown) -> None:
        """`owner`'s update was stolen where it lay: nothing could protect it."""
        for coalition in self.coalitions:
            coalition.known.learn({update: 1})
            coalition.allowed.learn({update: 1})
        self._check(self.coalitions)

    def _with(self, member: int) -> list[Coalition]:
        return [c for c in self.coalitions if member in c.members]

    @staticmethod
    def _check(coalitions: Iterable[Coalition]) -> None:
        for coalition in coalitions:
            leak = coalition.find_leak()
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
