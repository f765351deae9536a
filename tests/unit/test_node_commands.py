"""What people ask of a node happens in time or not at all, and they are told which."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
import trio
import trio.testing

from swarm.chain.genesis import Founder
from swarm.errors import ChainError, ConfigurationError
from swarm.node.chain.link import CLOCKS_DIFFER_S, ChainLink
from swarm.node.commands.common import DEADLINE_S, find_member, transact
from swarm.node.commands.members import _refuse_lookalike
from swarm.protocol.state import Member
from swarm.types import Address, Digest, MemberId

TX = Digest(b"\x05" * 32)


class Client:
    """A chain that takes a transaction and makes no block."""

    def __init__(self, head: int) -> None:
        self.now = head
        self.sent: list[tuple[Any, ...]] = []

    def check(self, *call: object) -> None: ...

    def head(self) -> tuple[int, int]:
        return 7, self.now

    def send_until(self, *call: object) -> Digest:
        self.sent.append(call)
        return TX

    def receipt(self, tx: Digest) -> None: ...

    def resend(self, tx: Digest) -> None: ...

    def overdue(self, tx: Digest, deadline_s: float) -> ChainError:
        return ChainError(f"not carried out within {deadline_s:g} s")


async def never(above: int) -> int:
    await trio.sleep_forever()
    raise AssertionError


def ask_of(client: Client) -> None:
    async def ask() -> None:
        link: Any = ChainLink(client, never)  # type: ignore[arg-type]

        async def at_once(function: Any, *arguments: Any) -> Any:
            await trio.lowlevel.checkpoint()
            return function(*arguments)

        link.ask = at_once
        await transact(link, "consent", 3)

    trio.run(ask, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("ahead_s", [-1000, 0, 1000])
def test_what_a_person_asks_for_expires_when_the_command_gives_up(ahead_s: int) -> None:
    client = Client(int(time.time()) + ahead_s)
    with pytest.raises(ChainError, match=r"not carried out.*It has expired: no block from now on"):
        ask_of(client)
    ((until, function, plan),) = client.sent
    assert (function, plan) == ("consent", 3)
    # By whichever clock is ahead: a node whose own is behind would send what has expired already.
    assert math.isclose(until, max(time.time(), client.now) + DEADLINE_S, abs_tol=3)
    assert CLOCKS_DIFFER_S > 2  # what validators allow a proposer's clock


def member(number: int, name: str) -> Member:
    return Member(MemberId(number), Address(bytes([number]) * 20), Address(bytes(20)), name)


def test_a_member_is_found_by_name_number_or_account_and_the_others_are_named() -> None:
    members = {MemberId(i): member(i, name) for i, name in enumerate(["Kyoto", "St. Mary"])}
    assert find_member("St. Mary", members).id == 1
    assert find_member("0", members).name == "Kyoto"
    assert find_member("0x" + "01" * 20, members).id == 1
    with pytest.raises(ConfigurationError, match=r"'Kioto'; there are: Kyoto, St\. Mary"):
        find_member("Kioto", members)


def test_a_name_that_is_another_members_number_is_refused_and_both_are_named() -> None:
    members = {MemberId(i): member(i, name) for i, name in enumerate(["Kyoto", "0"])}
    with pytest.raises(ConfigurationError, match=r"may be Kyoto .* and 0 .*give the account"):
        find_member("0", members)
    assert find_member("0x" + "01" * 20, members).name == "0"


def card_of(name: str, number: int = 9) -> Founder:
    return Founder(name, Address(bytes([number]) * 20), Address(bytes([number]) * 20), ())


def test_a_newcomer_whose_name_looks_like_a_members_is_not_proposed() -> None:
    members = {MemberId(1): member(1, "Charit\u00e9")}
    for name in ("Charite\u0301", "CHARIT\u00c9", "Charit\u00e9\ufe0f"):
        with pytest.raises(ConfigurationError, match="looks like that of member 1"):
            _refuse_lookalike(card_of(name), members)
    _refuse_lookalike(card_of("Charit\u00e9", number=1), members)  # the member itself: not ours
    _refuse_lookalike(card_of("Kyoto"), members)
