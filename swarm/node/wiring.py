"""Puts a node together: everything is opened in order, and closed in the opposite one.

Nothing is decided here.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path

import msgspec
import trio

from swarm.blobs.store import BlobStore
from swarm.box.process import try_out
from swarm.chain.genesis import Genesis
from swarm.learning.folds.golden import self_check
from swarm.network.limits import NetworkLimits
from swarm.network.network import Network, open_network
from swarm.node.alerts.alerting import FILE as ALERTS
from swarm.node.alerts.alerting import Alerting
from swarm.node.alerts.webhook import open_webhook, read_token
from swarm.node.chain.seen import Seen
from swarm.node.chain.source import TOPIC as CHAIN_TOPIC
from swarm.node.chain.source import open_node_chain, read_network
from swarm.node.commands.common import NodeCommands
from swarm.node.commands.control import Running, only_node_in, open_control
from swarm.node.commands.members import MemberCommands
from swarm.node.commands.models import ModelCommands
from swarm.node.commands.plans import PlanCommands
from swarm.node.commands.proposing import ProposeCommands
from swarm.node.commands.zoo import ZooCommands
from swarm.node.consent.admission import Admission
from swarm.node.consent.answering import Answering
from swarm.node.consent.confirmations import Confirmations
from swarm.node.consent.policy import site_policy
from swarm.node.home.backup import PRIVACY
from swarm.node.home.config import NodeConfig, alert_token, data_path, load_config
from swarm.node.home.data_set import data_set_in
from swarm.node.home.keys import address_of
from swarm.node.home.password import open_key
from swarm.node.http_door import open_http
from swarm.node.members.contacts import dial_rules
from swarm.node.members.greetings import METHOD as GREETING_METHOD
from swarm.node.members.greetings import Greetings
from swarm.node.metrics import prometheus_text
from swarm.node.node import Node
from swarm.node.outgoing.log import OUTGOING, OutgoingLog
from swarm.node.outgoing.recorder import ListedScores, Outgoing
from swarm.node.plans.figures import Figures, TensorBoard
from swarm.node.plans.joined import JoinedPlans
from swarm.node.plans.library import METHOD as BUNDLE_METHOD
from swarm.node.plans.library import Library
from swarm.node.plans.programs import METHOD as PROGRAM_METHOD
from swarm.node.plans.programs import Programs
from swarm.node.plans.public_blobs import PublicBlobs
from swarm.node.plans.sources import PlanSources
from swarm.node.plans.stream_host import StreamsOfPlans
from swarm.node.plans.trainers import Trainers
from swarm.node.zoo.zoo import LIST as LIST_METHOD
from swarm.node.zoo.zoo import SIGN as SIGN_METHOD
from swarm.node.zoo.zoo import Zoo
from swarm.privacy.charges import Budget
from swarm.protocol.attestation import domain_of
from swarm.protocol.program import Program
from swarm.protocol.state import Member, Plan
from swarm.rounds.exchange import Exchange
from swarm.rounds.joint_scores import METHOD as SCORES_METHOD
from swarm.rounds.masked_secrets import MaskedSecrets
from swarm.rounds.participation import Participation, open_participation
from swarm.rounds.privacy_ledger import PrivacyLedger
from swarm.rounds.records import Records
from swarm.rounds.retention import Retention
from swarm.types import Address, Digest, to_hex
from swarm.visible import name_addresses

log = logging.getLogger("swarm.node")

RUNNING = "running.json"
MASKED = "masked"
"""The folder of what masked rounds keep secret."""


@asynccontextmanager
async def open_node(directory: Path, password: str | None = None) -> AsyncIterator[Node]:
    """Everything that a node is made of, up and running; `password` opens its key.

    Raises ConfigurationError before anything is written or started, where it can.
    """
    config = load_config(directory)
    genesis = read_network(directory, config)
    key = open_key(directory, config, password)
    await trio.to_thread.run_sync(self_check)
    sandbox = await try_out(config.training.sandbox)
    log.log(logging.INFO if sandbox.is_closed else logging.WARNING, "%s", sandbox.in_words())
    async with AsyncExitStack() as stack:
        stack.enter_context(only_node_in(directory))
        addresses = _founding_addresses(config, genesis)
        network = await stack.enter_async_context(_open_network(config, key, addresses))
        seen = Seen(network.address)
        store = await trio.to_thread.run_sync(BlobStore, directory / "blobs")
        outgoing = await _open_outgoing(directory, config, network, seen)
        stack.callback(outgoing.close)
        exchange = Exchange(
            store, network, config.storage.max_blob_mb * 2**20, on_leaving=outgoing.leaving
        )
        network.serve_blobs(exchange)
        library, programs = Library(directory / "plans"), Programs(directory / "programs")
        network.handle(BUNDLE_METHOD, outgoing.listed("code", library.serve))
        network.handle(PROGRAM_METHOD, outgoing.listed("program", programs.serve))
        opened = await stack.enter_async_context(
            open_node_chain(directory, config, key, network, genesis)
        )
        # From here on others may come in: everything that answers them is in place.
        founders = () if genesis is None else genesis.founders
        name_addresses({to_hex(f.node): f.name for f in founders})
        network.set_members({founder.node: addresses[founder.node] for founder in founders})
        chain, client = opened.link, opened.link.client
        policy = site_policy(directory, config)
        budget = Budget(config.privacy.epsilon, config.privacy.delta)
        spent = partial(PrivacyLedger, directory / PRIVACY, budget)
        admission = Admission(
            policy,
            Confirmations(
                directory / "confirmations",
                config.policy.confirmers,
                network.address,
                config.name,
                client.contract,
                client.chain_id,
            ),
            await trio.to_thread.run_sync(spent),
            data_set_in(config.data.name, data_path(directory, config)),
        )
        trainers = Trainers(directory, config, library, stack, sandbox, policy)
        sources = PlanSources(library, programs, trainers, network, seen)
        election_secret = hmac.new(key, b"swarm/election/1", hashlib.sha256).digest()
        secrets = MaskedSecrets(directory / MASKED, key)

        async def open_part(plan: Plan, me: Member, program: Program) -> Participation:
            return open_participation(
                plan.id,
                me.id,
                election_secret,
                program,
                chain=chain,
                store=store,
                exchange=exchange,
                requests=ListedScores(network, outgoing),
                carrier=network,
                trainer=await trainers.of(plan.digest),
                holder=await trainers.for_role(plan.digest),
                records=Records(directory / "records" / f"plan-{plan.id}.jsonl"),
                own_model=directory / "own" / f"plan-{plan.id}.safetensors",
                keep_models=config.storage.keep_models,
                kept_state=directory / "kept" / f"plan-{plan.id}",
                privacy=admission.ledger,
                data_set=admission.data_set,
                traffic=lambda: network.traffic().total,
                secrets=secrets,
                genesis=domain_of(client.chain_id, client.contract),
                limits=admission.site_limits,
            )

        joined = JoinedPlans(seen, sources, admission, open_part)
        zoo = Zoo(
            directory / "zoo",
            key,
            network.address,
            client.chain_id,
            client.contract,
            network,
            store,
            exchange,
            library,
            trainers,
            seen.plans,
            lambda: seen.members,
            joined.parts,
            config.policy.sign_models,
        )
        public = PublicBlobs(seen, zoo.needed)

        def take_needs() -> tuple[set[Digest], set[Digest]]:
            return joined.needed() | public.all(), joined.take_spent()

        plan_commands = PlanCommands(
            chain,
            library,
            programs,
            trainers,
            election_secret,
            secrets,
            config.training.max_samples,
            bring_code=sources.bring_code,
            bring_program=sources.bring_program,
            admission=admission,
            known_plans=seen.plans,
        )
        board = None
        if config.figures.tensorboard is not None:
            board = await trio.to_thread.run_sync(
                TensorBoard, directory / config.figures.tensorboard
            )
        is_automatic = config.policy.consent == "automatic"
        node = Node(
            directory=directory,
            config=config,
            chain=chain,
            chain_status=opened.status,
            network=network,
            exchange=exchange,
            seen=seen,
            joined=joined,
            answering=Answering(seen, admission, plan_commands.consent if is_automatic else None),
            trainers=trainers,
            outgoing=outgoing,
            retention=Retention(store, joined.know_needs, take_needs),
            greetings=Greetings(version("swarm"), joined.halted, is_one_way=network.is_one_way),
            privacy=admission.ledger,
            known_addresses=addresses,
            figures=None if board is None else Figures(board, joined.parts.values),
        )
        if config.alerts.webhook is not None:
            token = alert_token(directory, config)
            post = open_webhook(config.alerts.webhook, None if token is None else read_token(token))
            node.alerting = Alerting(config.name, directory / ALERTS, node.find_alerts, post)
        exchange.allow(public.may_read, purpose=public.purpose_of)
        chain.on_waiting, chain.awaits_more = joined.hear_waiting, seen.awaits_more
        chain.on_sent = outgoing.transacted
        network.handle(GREETING_METHOD, node.greetings.answer)
        network.on_connect(node.greetings.connected)
        network.serve_streams(StreamsOfPlans(joined.parts))
        network.serve_observers(CHAIN_TOPIC, GREETING_METHOD)
        network.handle(SCORES_METHOD, outgoing.listed_scores(joined.hear_scores))
        network.handle(SIGN_METHOD, zoo.serve_signature)
        network.handle(LIST_METHOD, zoo.serve_list)
        node.rpc_url = await stack.enter_async_context(
            open_http(
                config.http.listen,
                opened.rpc,
                node.status,
                metrics=lambda: prometheus_text(node.status()),
            )
        )
        model_commands = ModelCommands(joined.parts, store, chain, library, trainers)
        propose_commands = ProposeCommands(
            chain,
            library,
            programs,
            trainers,
            store,
            on_proposed=public.proposed.add,
            bring_code=sources.bring_code,
            export_model=model_commands.export_result,
        )
        handlers = {
            **NodeCommands(
                chain,
                node.status,
                opened.copy_to,
                opened.describe_blocks,
                None if node.alerting is None else node.alerting.try_out,
            ).by_name,
            **outgoing.by_name,
            **MemberCommands(chain).by_name,
            **model_commands.by_name,
            **propose_commands.by_name,
            **plan_commands.by_name,
            **ZooCommands(zoo).by_name,
        }
        control = await stack.enter_async_context(open_control(directory, handlers))
        _announce(node, control)
        try:
            yield node
        finally:
            (directory / RUNNING).unlink(missing_ok=True)


def _founding_addresses(
    config: NodeConfig, genesis: Genesis | None
) -> dict[Address, tuple[str, ...]]:
    """Where each founder is, by node and by account: there its next key is, until it says else."""
    return {
        key: config.network.peers.get(founder.name, founder.addresses)
        for founder in (() if genesis is None else genesis.founders)
        for key in (founder.account, founder.node)
    }


@asynccontextmanager
async def _open_network(
    config: NodeConfig, key: bytes, founding: dict[Address, tuple[str, ...]]
) -> AsyncIterator[Network]:
    said = config.network
    limits = NetworkLimits(max_upload_bytes_per_s=said.max_upload_bytes_per_s)
    rules = dial_rules(address_of(key), said.announce, said.listen, founding, said.dial_private)
    async with open_network(key, said.listen, limits, rules) as network:
        yield network


async def _open_outgoing(
    directory: Path, config: NodeConfig, network: Network, seen: Seen
) -> Outgoing:
    most_bytes = config.storage.outgoing_mb * 2**20
    listing = partial(OutgoingLog, directory / OUTGOING, most_bytes=most_bytes)
    return Outgoing(
        await trio.to_thread.run_sync(listing),
        lambda: network.traffic().peers,
        config.name,
        seen.name_of_node,
        seen.name_of_member,
        seen.plan_with,
    )


def _announce(node: Node, control: str) -> None:
    """Say where the node listens, to whoever runs commands in its directory."""
    running = Running(os.getpid(), control, node.rpc_url, node.network.addresses)
    partial = node.directory / (RUNNING + ".partial")
    partial.write_bytes(msgspec.json.encode(running))
    try:
        partial.replace(node.directory / RUNNING)
    except OSError:
        partial.unlink()
        raise
    log.info("node %s is up: %s, %s", node.config.name, node.network.addresses[0], node.rpc_url)
