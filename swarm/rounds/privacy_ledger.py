"""What this site's rows have spent of their privacy, over all plans: on disk before it is used.

A line of JSON for each round that was *charged*, written and synced before its first step, and one
for each update that was *made* of it, before that can leave. A kill between the two costs nothing:
the round is done again under the same charge, since nobody has seen what it gave. An update that
was made is given again; if it is lost, another one is another charge.

Charges count for a data set, not for a plan: those under the same name in node.toml, and those of
the same bytes, whatever their name was. Adding a row makes other bytes, and a new name alone makes
no new people.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from swarm.errors import UNREADABLE, ConfigurationError, LocalError, PlanError
from swarm.privacy.accountant import epsilon_of
from swarm.privacy.charges import NO_BUDGET, Budget, Charged, Entry
from swarm.privacy.guarantee import Mechanism

_decoder: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(Entry)


class PrivacyLedger:
    """The list in the file `path`. Methods block; LocalError where the disk refuses.

    Raises ConfigurationError if a line is not one of its own: what cannot be read may have been
    spent.
    """

    def __init__(self, path: Path, budget: Budget = NO_BUDGET) -> None:
        self.budget = budget
        self._path = path
        self._entries: list[Entry] = []
        self._whole_bytes = 0
        self._is_whole = True
        """Whether the file ends with a whole line, so that another can follow."""
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return
        *lines, last = raw.split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                self._entries.append(_decoder.decode(line))
            except UNREADABLE as error:
                raise ConfigurationError(
                    f"{path}, line {number}, is no line of the list of spent privacy ({error}): "
                    "restore the file from a backup; without it, this site's data counts as unused"
                ) from None
        # Cut short by a kill: it was not synced, so no step was taken under it.
        self._is_whole = not last
        self._whole_bytes = len(raw) - len(last)

    def add(self, entry: Entry) -> None:
        """Write an entry; it survives a loss of power when this returns."""
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            is_new = not self._path.exists()
            with self._path.open("ab") as file:
                if not self._is_whole:
                    file.truncate(self._whole_bytes)
                self._is_whole = False
                self._whole_bytes = file.seek(0, os.SEEK_END)
                file.write(msgspec.json.encode(entry) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            if is_new:
                directory = os.open(self._path.parent, os.O_RDONLY)
                try:
                    os.fsync(directory)
                finally:
                    os.close(directory)
            self._is_whole = True
        except OSError as error:
            raise LocalError(
                f"cannot write {self._path}: {error.strerror}; nothing is trained before it is "
                "charged: free disk space"
            ) from error
        self._entries.append(entry)

    def charge(self, charge: Charged) -> None:
        """Charge a round before its first step, unless its charge stands unused.

        Raises PlanError if the data set's budget does not allow it.
        """
        newest = self.newest(charge.plan, charge.round, charge.base)
        if isinstance(newest, Charged) and not newest.from_chain:
            return
        self.require([charge.mechanism], charge.data_set, charge.data)
        self.add(charge)

    def require(self, more: Sequence[Mechanism], data_set: str, data: str) -> None:
        """Raise PlanError if the budget does not allow these on top of what is spent."""
        most = self.budget.epsilon
        if most is None:
            return
        spent = self.spent(data_set, data)
        after = self.spent(data_set, data, more)
        if after > most:
            raise PlanError(
                f"the data set {data_set!r} has spent ε = {spent:.3g} (δ = {self.budget.delta:g}) "
                f"over all plans, this would make it {after:.3g}, and `privacy.epsilon` in "
                f"node.toml allows {most:g}: withdraw, train on other people's rows under another "
                "`data.name`, or raise it, which is for whoever answers for these people's privacy"
            )

    def newest(self, plan: int, round: int, base: str) -> Entry | None:
        """The last entry of a round on a base."""
        of_round = ((e.plan, e.round, e.base) == (plan, round, base) for e in self._entries)
        pairs = zip(self._entries, of_round, strict=True)
        return next((entry for entry, is_its in [*pairs][::-1] if is_its), None)

    def charges_of(self, plan: int) -> list[Charged]:
        """What one plan was charged."""
        return [e for e in self._entries if isinstance(e, Charged) and e.plan == plan]

    def spent(self, data_set: str, data: str, more: Sequence[Mechanism] = ()) -> float:
        """ε of a data set so far, and with `more`, at the budget's δ."""
        charged = [e for e in self._entries if isinstance(e, Charged)]
        counted = [
            e.mechanism for e in charged if e.data_set == data_set or (data and e.data == data)
        ]
        return epsilon_of([*counted, *more], self.budget.delta)
