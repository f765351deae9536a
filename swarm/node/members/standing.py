"""What keeps a member in good standing without anybody asking: its node becomes a validator once it
has caught up, shows life now and then, and takes off validators that have been silent for a week.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import trio

from swarm.errors import ChainError, ContractError
from swarm.node.chain.link import ChainLink
from swarm.protocol.membership import CONTACT_EVERY_S, DORMANT_S
from swarm.protocol.state import Member, member_with_node, two_thirds
from swarm.types import Address, MemberId

log = logging.getLogger("swarm.node")

CHECK_EVERY_S = 60.0
SYNCED_WITHIN_S = 10.0
"""A head that is no older than this is the present."""
QUIET_S = 5.0
"""A chain on which nothing happened for this long has nothing more to send us."""
RENEW_AFTER_S = DORMANT_S // 7
DEADLINE_S = 60.0


async def keep_up(
    chain: ChainLink, node: Address, contact_owed: Callable[[Member], bytes | None]
) -> None:
    """Run for as long as the node with this key does. `contact_owed` says what the node should
    state about where it is, if anything."""
    await _wait_until_synced(chain)
    while True:
        me = None
        try:
            members = await chain.members()
            me = member_with_node(members, node)
            owed = [] if me is None else due(me, members, int(time.time()), contact_owed(me))
            for function, arguments in owed:
                await _send(chain, function, *arguments)
        except ChainError as error:
            log.warning("the members cannot be read: %s", error)
        await trio.sleep(CHECK_EVERY_S if me is not None and me.validator else QUIET_S)


def due(
    me: Member, members: dict[MemberId, Member], now: int, contact: bytes | None = None
) -> list[tuple[str, tuple[object, ...]]]:
    """The transactions that this node owes the consortium at `now`."""
    owed: list[tuple[str, tuple[object, ...]]] = []
    if me.endorsed and (not me.validator or now > me.seen_at + RENEW_AFTER_S):
        owed.append(("activate", ()))
    if contact is not None and now >= me.contact_at + CONTACT_EVERY_S:
        owed.append(("setContact", (contact,)))
    validators = [m for m in members.values() if m.present and m.validator]
    silent = [m for m in validators if now > m.seen_at + DORMANT_S]
    awake = len(validators) - len(silent)
    if awake >= two_thirds(len(validators)):
        owed += [("retire", (m.id,)) for m in silent if m.id != me.id]
    return owed


async def _send(chain: ChainLink, function: str, *arguments: object) -> None:
    try:
        await chain.transact(function, *arguments, deadline_s=DEADLINE_S)
        log.info("%s%s: done", function, arguments or "")
    except ContractError as error:
        log.info("%s: %s", function, error)  # somebody was faster
    except ChainError as error:
        log.warning("%s: %s", function, error)


async def _wait_until_synced(chain: ChainLink) -> None:
    height = -1
    while True:
        try:
            height, timestamp = await chain.ask(chain.client.head)
        except ChainError:
            await trio.sleep(QUIET_S)
            continue
        if timestamp >= time.time() - SYNCED_WITHIN_S:
            return
        with trio.move_on_after(QUIET_S) as quiet:
            await chain.wait_for_head(height)
        if quiet.cancelled_caught:
            return
