"""A node's directory and its `node.toml`: what a person decides, checked before anything starts.

    hospital/            mode 700
      node.toml          this file; never holds a secret
      key.json           the node key, encrypted (keystore v3), mode 600
      password           optional: opens key.json unattended, mode 600
      network.json       the genesis: who founded the consortium
      privacy.jsonl      what this site's rows have spent of their privacy: back it up
      chain/ blobs/ plans/ trainer/ node.log       what the node keeps

Unknown keys and wrong types are refused with the key's path, because a typing error in a security
setting must not be silence.
"""

from __future__ import annotations

import os
import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlparse

import msgspec

from swarm.box.contents import check_apart
from swarm.box.description import Sandbox
from swarm.errors import UNREADABLE, ConfigurationError, system_fault
from swarm.network.tcp import parse_endpoint
from swarm.types import Address, to_address

MAX_CONFIG_BYTES = 64 * 1024
MAX_PORT = 65535
PORT = re.compile(r"[0-9]{1,5}")
UNKNOWN_KEY = re.compile(r"Object contains unknown field `(?P<key>.+)`")

LAUNCH = re.compile(r"torchrun --nproc[-_]per[-_]node[= ]([0-9]{1,3})")
MOST_PROCESSES = 64
"""At one site: more than the GPUs of any machine that trains for one."""
DEVICE = re.compile(r"auto|cpu|mps|(cuda|xpu)(:[0-9]{1,3})?")

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
AboveZero = Annotated[float, msgspec.Meta(gt=0)]
ModuleName = Annotated[str, msgspec.Meta(pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)*$", max_length=256)]
MegabitsPerS = Annotated[float, msgspec.Meta(gt=0)]


class _Section(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    pass


class Key(_Section, frozen=True):
    file: str = "key.json"
    password_file: str | None = None
    """Read at start; without it the environment's SWARM_PASSWORD, or a prompt."""


class Chain(_Section, frozen=True):
    network: str = "network.json"
    rpc_url: str | None = None
    """An external chain's endpoint instead of the embedded chain; needs `contract`."""
    contract: str | None = None
    finality: Literal["latest", "finalized"] = "latest"
    """Which block of an external chain counts: "latest" where blocks are final at once."""


class Network(_Section, frozen=True):
    listen: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)
    announce: tuple[str, ...] = ()
    """Multiaddrs under which the others can dial this node: stated on the chain where they know
    others of it, or none."""
    peers: dict[str, tuple[str, ...]] = {}
    """Multiaddrs by member name, where they differ from network.json."""
    dial_private: tuple[str, ...] = ()
    """Private networks, such as 10.20.0.0/16, in which members are dialled that state on the chain
    to be there. Public addresses always are, and those in this node's own /24 or /64."""
    max_upload_mbit: MegabitsPerS | None = None
    """Megabits a second of models and updates, to all peers together; no limit by default."""

    @property
    def max_upload_bytes_per_s(self) -> float | None:
        return None if self.max_upload_mbit is None else self.max_upload_mbit * 1e6 / 8


class Http(_Section, frozen=True):
    listen: str = "127.0.0.1:0"
    """JSON-RPC and status. Anything but loopback is reachable by others: put a proxy before it."""


class DataSource(_Section, frozen=True):
    name: Name = "data"
    """Of whose rows these are: what plans with privacy spend is counted under it. Another name is
    for other people's rows, not for more of them."""
    path: str | None = None
    options: dict[str, str | int | float | bool] = {}
    read: tuple[str, ...] = ()
    """Further files and folders that plans may read here: pretrained weights, say."""


class Training(_Section, frozen=True):
    device: str = "auto"
    """"cpu", "cuda", "cuda:1", "mps" or "xpu"; "auto" takes the first GPU, or the CPU."""
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None
    """For experiments: overrides the plan's seed at this node."""
    max_samples: Positive | None = None
    """The most samples ever claimed; the number of training rows by default."""
    launch: str = ""
    """"torchrun --nproc-per-node=4" trains this site's rows in four processes, with a GPU each
    where there are some; in one, by default."""
    sandbox: Sandbox = "auto"
    """What plan code is boxed by: what this machine allows, all that matters or no training, or
    nothing."""

    @property
    def processes(self) -> int:
        """In how many processes a round is trained. Raises ConfigurationError for a command that
        says something else."""
        if not self.launch:
            return 1
        found = LAUNCH.fullmatch(" ".join(self.launch.split()))
        if found is None or not 1 <= int(found[1]) <= MOST_PROCESSES:
            raise ConfigurationError(
                f"`training.launch` is {self.launch!r}: write "
                f'"torchrun --nproc-per-node=N", N from 1 to {MOST_PROCESSES}'
            )
        return int(found[1])


class Policy(_Section, frozen=True):
    """What this site consents to, and what may leave it. Everything, by default."""

    proposers: tuple[str, ...] | None = None
    """Members whose plans this node consents to, by name or account; everybody's by default."""
    imports: tuple[ModuleName, ...] | None = None
    """Modules that a plan's code may import, each with what lies below it; all by default."""
    max_rounds: Positive | None = None
    """The most rounds that a plan may have, statistics included."""
    max_round_mb: AboveZero | None = None
    """The largest update, or statistics, that leaves in one round, in MB."""
    max_round_minutes: AboveZero | None = None
    """The longest that the training of one round takes here."""
    min_rows: Positive | None = None
    """The fewest training rows with which this site trains, where a plan asks for fewer."""
    min_count: Positive | None = None
    """Of a plan's statistics, no number leaves that tells of fewer rows."""
    share_scores: bool = True
    """Whether the others are told the scores of this site's own model, where a plan asks for it."""
    consent: Literal["ask", "automatic"] = "ask"
    """"automatic" consents to every proposed plan that this policy allows."""
    sign_models: Literal["ask", "automatic"] = "ask"
    """Whether this node signs what a member publishes of a model that its update is in: once
    somebody here has said so with `swarm model sign`, or whoever publishes."""
    confirmers: tuple[str, ...] = ()
    """Accounts of other people, one of whom must confirm a plan before this node consents."""


class Privacy(_Section, frozen=True):
    """How much of its rows' privacy this site spends, over all plans."""

    epsilon: AboveZero | None = None
    """The most; a plan without differential privacy is refused then. No limit by default."""
    delta: Annotated[float, msgspec.Meta(gt=0, le=0.01)] = 1e-5
    """The δ at which it is counted."""


class Figures(_Section, frozen=True):
    """Where the figures of rounds go, beside this node's status and dashboard."""

    tensorboard: str | None = None
    """A folder for `tensorboard --logdir`, written anew at each start. Needs swarm[tensorboard]."""


class Log(_Section, frozen=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is written."""
    format: Literal["text", "json"] = "text"
    """"json" writes one object a line, for programs that collect logs."""
    file: str | None = None
    """Written here instead of to the terminal."""
    max_mb: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 16
    """At this size the file is moved to FILE.1, and that to FILE.2."""
    keep: Annotated[int, msgspec.Meta(ge=1, le=100)] = 4
    """How many moved files are kept: the log takes `max_mb` × (`keep` + 1) at most."""


class Alerts(_Section, frozen=True):
    """Where this node says, once, what a person must see to."""

    webhook: str | None = None
    """Each alert is posted here as JSON: https://, or http:// on this machine. None by default."""
    token_file: str | None = None
    """A file of mode 600, whose first line goes along as `Authorization: Bearer`."""


class Storage(_Section, frozen=True):
    keep_models: Annotated[int, msgspec.Meta(ge=1)] = 3
    """How many of the newest final models are kept."""
    max_blob_mb: Positive = 8192
    """Refuse anything larger from peers."""
    outgoing_mb: Annotated[int, msgspec.Meta(ge=16)] = 1024
    """Of the list of what left, the oldest files are deleted beyond this."""


class NodeConfig(_Section, frozen=True):
    """The whole of `node.toml`."""

    name: Name
    key: Key = Key()
    chain: Chain = Chain()
    network: Network = Network()
    http: Http = Http()
    data: DataSource = DataSource()
    training: Training = Training()
    policy: Policy = Policy()
    privacy: Privacy = Privacy()
    storage: Storage = Storage()
    log: Log = Log()
    figures: Figures = Figures()
    alerts: Alerts = Alerts()


def load_config(directory: Path) -> NodeConfig:
    """Read `directory/node.toml`. Raises ConfigurationError that names the file and the key."""
    path = directory / "node.toml"
    try:
        with path.open("rb") as file:
            text = file.read(MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        raise ConfigurationError(
            f"{path} does not exist: create the node with `swarm init {directory} --name NAME`"
        ) from None
    except OSError as error:
        raise ConfigurationError(f"cannot read {system_fault(error)}") from None
    if len(text) > MAX_CONFIG_BYTES:
        raise ConfigurationError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes")
    try:
        config = msgspec.toml.decode(text, type=NodeConfig)
    except (*UNREADABLE, ValueError) as error:
        raise ConfigurationError(f"{path}: {_in_words(str(error))}") from None
    _check(path, directory, config)
    return config


def _in_words(fault: str) -> str:
    """msgspec writes "Object contains unknown field `listn` - at `$.network`"; people say
    "unknown key `network.listn`"."""
    text, _, place = fault.partition(" - at ")
    path = place.strip("`").removeprefix("$").removeprefix(".")
    unknown = UNKNOWN_KEY.fullmatch(text)
    if unknown is not None:
        key = f"{path}.{unknown['key']}" if path else unknown["key"]
        return f"unknown key `{key}`: correct it, or remove it"
    return f"`{path}`: {text[0].lower()}{text[1:]}" if path else text


def _check(path: Path, directory: Path, config: NodeConfig) -> None:
    chain = config.chain
    if (chain.rpc_url is None) != (chain.contract is None):
        raise ConfigurationError(
            f"{path}: `chain.rpc_url` and `chain.contract` belong together: give both for an "
            "external chain, neither for the embedded one"
        )
    if chain.rpc_url is not None and not _is_http(chain.rpc_url):
        raise ConfigurationError(
            f"{path}: `chain.rpc_url` is {chain.rpc_url!r}, not an http:// or https:// address"
        )
    if chain.contract is not None:
        try:
            to_address(chain.contract)
        except ValueError as error:
            raise ConfigurationError(f"{path}: `chain.contract`: {error}") from None
    network = config.network
    said = {"network.listen": network.listen, "network.announce": network.announce} | {
        f"network.peers.{name}": addresses for name, addresses in network.peers.items()
    }
    for key, addresses in said.items():
        for address in addresses:
            check_multiaddr(address, f"{path}: `{key}`")
    for network_text in network.dial_private:
        _check_network(network_text, f"{path}: `network.dial_private`")
    check_host_port(config.http.listen, f"{path}: `http.listen`")
    if not DEVICE.fullmatch(config.training.device):
        raise ConfigurationError(
            f"{path}: `training.device` is {config.training.device!r}, which no torch knows: write "
            '"auto", "cpu", "cuda", "cuda:1", "mps" or "xpu"'
        )
    try:
        config.training.processes  # noqa: B018
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None
    _check_policy(path, config.policy)
    if config.alerts.webhook is not None:
        check_webhook(config.alerts.webhook, f"{path}: `alerts.webhook`")
    data = data_path(directory, config)
    readable = (*([] if data is None else [data]), *readable_paths(directory, config))
    for place in readable:
        _check_path(place, f"{path}: `data.path` or `data.read`")
    try:
        check_apart(readable, private_paths(directory, config))
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from None


def _check_path(path: Path, where: str) -> None:
    """Refuse what can be no path on this machine; whether anything is there, is another matter."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigurationError(f"{where} cannot be a path here ({why}): correct it") from None


def _check_policy(path: Path, policy: Policy) -> None:
    for account in policy.confirmers:
        try:
            to_address(account)
        except ValueError as error:
            raise ConfigurationError(
                f"{path}: `policy.confirmers`: {error}; `swarm plan signer FILE` makes an account"
            ) from None
    if policy.consent != "automatic":
        return
    unsaid = [f"`policy.{key}`" for key in ("proposers", "imports") if getattr(policy, key) is None]
    if unsaid:
        raise ConfigurationError(
            f'{path}: `policy.consent` is "automatic", so {" and ".join(unsaid)} must say to what: '
            'nobody reads the code then; or write "ask"'
        )
    if policy.confirmers:
        raise ConfigurationError(
            f'{path}: `policy.consent` is "automatic", and `policy.confirmers` asks for a second '
            'person: write "ask", or leave `confirmers` out'
        )


def _is_http(url: str) -> bool:
    try:
        return urlparse(url).scheme in ("http", "https")
    except ValueError:
        return False


def check_webhook(url: str, where: str) -> None:
    """Raise ConfigurationError unless messages may go to `url`: what they say of an institution is
    for nobody on the way."""
    try:
        parts = urlparse(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host, parts = "", urlparse("")
    if not host or parts.scheme not in ("https", "http") or parts.username or not url.isascii():
        raise ConfigurationError(
            f"{where} is no address that can be posted to: write https://HOST/PATH; a name and a "
            "password belong into `alerts.token_file`"
        )
    if parts.scheme == "http" and not is_loopback(host):
        raise ConfigurationError(
            f"{where} would send to {host} in the clear: write https://, or http:// to this machine"
        )


def is_loopback(host: str) -> bool:
    """Whether `host`, a name or an address, is this machine."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def check_multiaddr(text: str, where: str) -> None:
    """Raise ConfigurationError unless the network can listen on `text`, or dial it."""
    try:
        parse_endpoint(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from None


def _check_network(text: str, where: str) -> None:
    try:
        ip_network(text)
    except ValueError as error:
        raise ConfigurationError(
            f"{where}: {text!r} is no network ({error}); write it like 10.20.0.0/16"
        ) from None


def check_host_port(text: str, where: str) -> None:
    """Raise ConfigurationError unless `text` is an address and a port."""
    host, separator, port = text.rpartition(":")
    if not separator or not host or not PORT.fullmatch(port) or int(port) > MAX_PORT:
        raise ConfigurationError(
            f"{where}: {text!r} cannot be listened on; write an address and a port, such as "
            "127.0.0.1:8545"
        )


def data_path(directory: Path, config: NodeConfig) -> Path | None:
    """Where this site's data lies; relative paths start at the node's directory."""
    return None if config.data.path is None else directory / config.data.path


def readable_paths(directory: Path, config: NodeConfig) -> tuple[Path, ...]:
    """What plans may read beside this site's data."""
    return tuple(directory / name for name in config.data.read)


def missing_data(directory: Path, config: NodeConfig) -> list[str]:
    """What keeps this site from training: a sentence for each path to its data that leads nowhere.
    The node runs all the same: it validates, and merges."""
    data = data_path(directory, config)
    named = {} if data is None else {"data.path": [data]}
    named["data.read"] = list(readable_paths(directory, config))
    return [
        f"this site trains nothing: `{key}` in {directory / 'node.toml'} names {path}, which does "
        "not exist: put it there, or correct the path and restart the node"
        for key, paths in named.items()
        for path in paths
        if not os.path.exists(path)
    ]


def private_paths(directory: Path, config: NodeConfig) -> tuple[Path, ...]:
    """What no plan may read: the node's directory as a whole, and its key wherever that lies."""
    files = (config.key.file, config.key.password_file, config.alerts.token_file)
    secrets = (file for file in files if file is not None)
    return (directory, *(directory / name for name in secrets))


def alert_token(directory: Path, config: NodeConfig) -> Path | None:
    """The file of what goes along with alerts."""
    file = config.alerts.token_file
    return None if file is None else directory / file


def external_contract(config: NodeConfig) -> Address | None:
    """The contract on an external chain, if the node uses one."""
    return None if config.chain.contract is None else to_address(config.chain.contract)
