"""docs/operations.md followed to the letter by six machines, and each trouble named at both ends.

Four found a consortium, a fifth comes, goes and comes back, the sixth machine is for copies of
others. Whatever happens, both the institution that it happens to and another one must say so by
name within 30 seconds.
"""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from harness.compose.shell import Failed, wait_until
from harness.faults.wires import Wires
from harness.namespaces.institution import Institution
from harness.plans import write_tiny_plan

ROUNDS, SLOWER = 8, 1.5
CONNECTED_S, PLAN_S, VOTES_S = 120.0, 300.0, 180.0
CLOCK_S = 300
Say = Callable[[str], None]


class Story:
    """One run of it, in `folder`; `bin_` has the programs of the installed swarm."""

    def __init__(self, wires: Wires, bin_: Path, folder: Path, say: Say) -> None:
        self.wires, self.bin_, self.folder, self._say = wires, bin_, folder, say
        write_tiny_plan(folder / "tiny", ("epochs = 3", "epochs = 1"), sites=6)
        names = {"mary": "St. Mary", "charite": "Charité", "kyoto": "Kyoto", "turin": "Turin"}
        self.founders = [
            self._institution(machine, home, name)
            for machine, (home, name) in enumerate(names.items())
        ]
        self.mary, self.charite, self.kyoto, self.turin = self.founders
        self.basel = self._institution(4, "basel", "Basel")
        self.spare = self._institution(5, "copy", "Kyoto")
        self._all = [*self.founders, self.basel, self.spare]

    def _institution(self, machine: int, home: str, name: str) -> Institution:
        return Institution(self.wires, machine, self.bin_, self.folder / home, name)

    def run(self) -> None:
        """All of it. Raises Failed."""
        for step in (
            self.install, self.found, self.decline, self.join, self.leave, self.remove, self.move,
            self.rotate, self.restore, self.set_clock_wrong, self.copy_key, self.firewall,
        ):  # fmt: skip
            began = time.monotonic()
            for each in self._all:
                each.read_from_here()
            step()
            what = (step.__doc__ or "").splitlines()[0]
            self._say(f"{step.__name__.replace('_', ' ')}: {what} {time.monotonic() - began:.0f} s")

    def end(self) -> None:
        """End what runs still, whatever has come of it."""
        for each in self._all:
            each.kill()

    def _both(self, *said: tuple[Institution, str]) -> None:
        """Each must say its pattern, by name and within its time."""
        for who, pattern in said:
            seconds, line = who.says(pattern)
            self._say(f"    {who.name}, after {seconds:.1f} s: {line[:200]}")

    def _connected(self, *nodes: Institution) -> None:
        names = {each.name for each in nodes}
        for node in nodes:
            others = names - {node.name}

            def is_whole(node: Institution = node, others: set[str] = others) -> bool:
                return others <= set(node.status()["connected"])

            wait_until(f"{node.name} is connected to {sorted(others)}", CONNECTED_S, is_whole)

    # What happens.

    def install(self) -> None:
        """swarm is there on every machine."""
        for each in self._all:
            self._say(f"    {each.swarm('--version').strip()}")

    def found(self) -> None:
        """Four founders compute the same network, and a late one is missed by name."""
        cards = [each.home / "card.json" for each in self.founders]
        for number, each in enumerate(self.founders):
            each.make(self.folder / "tiny" / "data" / f"site{number}.csv")
        told = set()
        for each in self.founders:
            file = each.home / "network.json"
            made = each.swarm("network", "found", *cards, "--time", self._now, "--output", file)
            told.add(made.splitlines()[0].split(":", 1)[1])
        if len(told) != 1:
            raise Failed(f"the founders see different networks: {told}")
        for each in self.founders[:3]:
            each.start()
        self._both((self.mary, r"Not connected to Turin \(/ip4/10\.77\.0\.4/tcp/4001: refused"))
        said = self.turin.refused("contract", "members", "--node", self.turin.home)
        self._say(f"    Turin: {said.strip()}")
        self.turin.start()
        self._connected(*self.founders)

    def decline(self) -> None:
        """A plan waits for those who have not decided; who declines is left out of it alone."""
        self.mary.swarm(
            "plan", "propose", self.folder / "tiny", "--rounds", 2, "--node", self.mary.home
        )
        asked = "plan 1 Tiny waits for this institution"
        self._both((self.kyoto, asked), (self.mary, asked))
        for each in self.founders:
            each.swarm("plan", "show", 1, "--node", each.home)
            word = "decline" if each is self.turin else "consent"
            each.swarm("plan", word, 1, "--node", each.home)
        self._completed(1, self.founders[:3])
        for each in (self.mary, self.turin):
            [plan] = [p for p in self._plans(each) if p["id"] == 1]
            if plan["declined"] != ["Turin"]:
                raise Failed(f"{each.name} says that {plan['declined']} declined plan 1")

    def join(self) -> None:
        """A stranger is told that it is none yet; admitted, it is connected to all."""
        self._admit(self.basel, is_told=True)

    def leave(self) -> None:
        """Who leaves is told so, as are the others; with a new key it comes back."""
        self.basel.swarm("contract", "leave", "--yes", "--node", self.basel.home)
        gone = "Basel is no member any more"
        self._both((self.basel, "this institution is no member any more"), (self.mary, gone))
        self._return("basel2")

    def remove(self) -> None:
        """Who is removed is told so, as are the others; with a new key it comes back."""
        self._decide("--remove", "Basel")
        gone = "Basel is no member any more"
        self._both((self.basel, "this institution is no member any more"), (self.kyoto, gone))
        said = self.basel.refused("contract", "propose", "--remove", "Turin", "--node",
                                  self.basel.home)  # fmt: skip
        self._say(f"    Basel: {said.strip()}")
        self._return("basel3")

    def move(self) -> None:
        """A member with another address is found there without an edit."""
        self.turin.stop()
        old, new = self.wires.listen(3), self.wires.move(3)
        self._both((self.mary, f"Not connected to Turin .*{old}: "))
        for key in ("listen", "announce"):
            self.turin.edit(f'^{key} = \\["{old}"\\]', f'{key} = ["{new}"]')
        self.turin.start()
        at = new.split("/")[2]
        self._both(
            (self.mary, f"connected to Turin .* at {at}:"), (self.turin, "connected to St. Mary")
        )

        def dials() -> bool:
            [peer] = [p for p in self.basel.status()["peers"] if p["name"] == "Turin"]
            return bool(peer["connected"] and not peer["failed_dials"] and not peer["notes"])

        wait_until("Basel can dial Turin at its new address", CONNECTED_S, dials)
        self._connected(*self.founders, self.basel)

    def rotate(self) -> None:
        """A new node key is told to all, and its node validates again."""
        said = self.turin.swarm("node", "rotate", self.turin.home)
        self._say(f"    Turin: {said.splitlines()[0]}")
        key = said.split("0x")[1][:40]
        self._both((self.mary, f"Turin: its node key is 0x{key}"))
        self._connected(*self.founders, self.basel)
        self._validates(self.turin)
        if self.turin.status()["account"] != f"0x{key}":
            raise Failed("Turin's node has another key than was told")

    def restore(self) -> None:
        """A lost machine comes back from its backup, and votes once it is alone with its key."""
        file = self.folder / "turin.tar.gz"
        self.turin.swarm("node", "backup", self.turin.home, file)
        self.turin.kill()
        password = (self.turin.home / "password").read_text()
        shutil.rmtree(self.turin.home)
        self._both((self.mary, "Not connected to Turin"))
        again = self._instead(self.turin, "turin2")
        said = again.swarm("node", "restore", file, again.home)
        self._say("    " + said.strip().replace("\n", "\n    "))
        (again.home / "password").write_text(password)
        (again.home / "password").chmod(0o600)
        again.start()
        self._both((again, "this node was restored from a backup"))
        self._connected(*self.founders, self.basel)

        def will_vote() -> bool:
            return again.status()["chain"]["votes_from"] is not None

        wait_until("the restored node knows from where on it may vote", VOTES_S, will_vote)
        self.mary.swarm("contract", "propose", "--remove", "Basel", "--node", self.mary.home)
        self.mary.swarm("contract", "cancel", 5, "--node", self.mary.home)
        self._validates(again)

    def set_clock_wrong(self) -> None:
        """A clock that is wrong is named where it is and elsewhere."""
        self.kyoto.stop()
        self.kyoto.start(clock_ahead_s=CLOCK_S)
        self._both(
            (self.kyoto, r"this machine's clock is \d+ s ahead of the other members'"),
            (self.mary, r"Kyoto: its clock is \d+ s ahead of this machine's"),
        )
        self.kyoto.stop()
        self.kyoto.start()
        self._connected(*self.founders, self.basel)

    def copy_key(self) -> None:
        """One key on two machines is named at both, and by the others."""
        shutil.copytree(self.kyoto.home, self.spare.home, ignore=shutil.ignore_patterns("*.sock"))
        old, new = self.wires.listen(2), self.wires.listen(5)
        self.spare.edit(f'^listen = \\["{old}"\\]', f'listen = ["{new}"]')
        self.spare.start()
        twice = "another machine uses this node's key at the same time, says "
        self._both(
            (self.mary, "Kyoto: its key is used on two machines at once"),
            (self.spare, twice),
            (self.kyoto, twice),
        )
        self.spare.stop()
        self.kyoto.stop()
        self.kyoto.start()
        self._connected(*self.founders, self.basel)

    def firewall(self) -> None:
        """With one and with two firewalled members all rounds are final, with all, and soon."""
        members = [*self.founders, self.basel]
        walls: list[Institution] = []
        seconds: dict[int, list[float]] = {}
        for walled in (None, self.basel, self.charite):
            if walled is not None:
                walled.stop()
                self.wires.firewall(walled.machine)
                walled.start()
                walls.append(walled)
                self._both(
                    (self.mary, f"{walled.name}: it cannot be dialled .*no answer within"),
                    (walled, "St. Mary.* cannot dial this node"),
                )
            if len(walls) == 2:
                one, other = walls
                self._both(
                    (one, f"Not connected to {other.name} .*no answer within"),
                    (other, f"Not connected to {one.name} .*no answer within"),
                )
            else:
                self._connected(*members)
            seconds[len(walls)] = self._trained(members)
        open_s = statistics.median(seconds[0])
        for count, each in seconds.items():
            round_s = statistics.median(each)
            slower = round_s / open_s
            self._say(f"    {count} firewalled: {round_s:.2f} s a round, × {slower:.2f}")
            if slower > SLOWER:
                raise Failed(f"rounds take × {slower:.2f} with {count} firewalled members")

    # What several of them need.

    @property
    def _now(self) -> int:
        if not hasattr(self, "_founded"):
            self._founded = int(time.time())
        return self._founded

    def _admit(self, newcomer: Institution, is_told: bool = False) -> None:
        newcomer.make(self.folder / "tiny" / "data" / "site4.csv")
        shutil.copy(self.mary.home / "network.json", newcomer.home)
        newcomer.start()
        if is_told:
            self._both(
                (newcomer, "no member yet|no member lets this node in"),
                (self.mary, r"refused a connection from 10\.77\.0\.5: .*0x"),
            )
        self._decide("--admit", newcomer.home / "card.json")
        self._connected(*self.founders, newcomer)
        self._validates(newcomer)

    def _return(self, home: str) -> None:
        self.basel.stop()
        self.basel = self._instead(self.basel, home)
        self._admit(self.basel)

    def _instead(self, former: Institution, home: str) -> Institution:
        """The same institution in another directory on the same machine."""
        new = self._institution(former.machine, home, former.name)
        if former in self.founders:
            self.founders[self.founders.index(former)] = new
            self.turin = new
        self._all.append(new)
        return new

    def _decide(self, *what: object) -> None:
        """Mary proposes it; all other founders vote for it."""
        said = self.mary.swarm("contract", "propose", *what, "--node", self.mary.home)
        number = said.split()[1].rstrip(":")
        for each in self.founders[1:]:
            said = each.swarm("contract", "vote", number, "--node", each.home)
        self._say(f"    {said.strip()}")

    def _validates(self, node: Institution) -> None:
        def does() -> bool:
            chain = node.status()["chain"]
            return chain["role"] == "validator" and chain["votes_from"] is not None

        wait_until(f"{node.name} validates", VOTES_S, does)

    def _plans(self, node: Institution) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = json.loads(
            node.swarm("plan", "list", "--json", "--node", node.home)
        )
        return listed

    def _trained(self, members: Sequence[Institution]) -> list[float]:
        """Seconds of each round of a plan to which all of these consent."""
        self.mary.swarm(
            "plan", "propose", self.folder / "tiny", "--rounds", ROUNDS, "--node", self.mary.home
        )
        number = max(plan["id"] for plan in self._plans(self.mary))
        for each in members:
            each.swarm("plan", "consent", number, "--node", each.home)
        return self._completed(number, members)

    def _completed(self, number: int, members: Sequence[Institution]) -> list[float]:
        """Wait until a plan is complete with all of `members` in each round; seconds by round."""

        def plan() -> dict[str, Any]:
            listed = self.mary.status()["plans"]
            return next((p for p in listed if p["id"] == number), {})

        wait_until(
            f"plan {number} is complete", PLAN_S, lambda: plan().get("status") == "completed"
        )
        names = {each.name for each in members}
        records = [record for record in plan()["records"] if record["number"]]
        for record in records:
            missing = names - set(record["contributors"])
            if missing:
                raise Failed(f"plan {number}, round {record['number']}, is without {missing}")
        if len(records) != plan()["rounds"]:
            raise Failed(f"plan {number} has {len(records)} records of {plan()['rounds']} rounds")
        return [record["total_s"] for record in records]
