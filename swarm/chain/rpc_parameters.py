"""What a parameter of a JSON-RPC method may be: each is read into a bounded type before the method
sees it, or refused with -32602 and its name.

Quantities are the shortest hexadecimal (`0x0`, `0x41`), data has two digits for each byte, as
EIP-1474 wants; JSON's own `true`, `1` or `{}` are none of these. Where that leaves a choice,
go-ethereum's is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from swarm.types import Address, Digest

BAD_PARAMS, SERVER = -32602, -32000
MAX_DATA_CHARS = 256 * 1024
MAX_HEIGHT = 2**63 - 1
"""As far as go-ethereum and sqlite count."""
MAX_GAS = 2**64 - 1
MAX_PERCENTILES = 100
MAX_ADDRESSES, MAX_TOPICS, MAX_CHOICES = 64, 4, 64
MAX_SLOTS = 256
"""Of which a proof is asked for at once."""
PRECOMPILES = 2**16
"""Below: the EVM's built-in functions. Some take minutes in Python for the gas of a second; the
contract uses none, so nothing is lost by not serving them."""
_SHOWN_CHARS = 60
_HEXADECIMAL = frozenset("0123456789abcdefABCDEF")

Tag = Literal["earliest", "latest", "pending"]
Height = int | Tag
"""A block's number or tag. `safe` and `finalized` are read as `latest`: all blocks are final."""
Reader = Callable[[object, str], Any]


class RpcFault(Exception):
    """An error that is answered to the client: `code` as in JSON-RPC 2.0 and EIP-1474."""

    def __init__(self, code: int, message: str, data: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class _Required:
    """Stands where a parameter has no default."""


REQUIRED = _Required()


@dataclass(frozen=True)
class Parameter:
    """One position of a method: `read` takes the JSON value and the name, and raises RpcFault.

    A value that is missing or null gives `default`, which is of the type that `read` returns.
    """

    name: str
    read: Reader
    default: object = REQUIRED


def read_parameters(expected: Sequence[Parameter], given: object) -> list[Any]:
    """The parameters of a call, typed and complete. Raises RpcFault."""
    values = [] if given is None or given == {} else given
    if not isinstance(values, list):
        raise RpcFault(BAD_PARAMS, f"params: {_shown(given)} is not a list")
    if len(values) > len(expected):
        names = ", ".join(parameter.name for parameter in expected) or "none"
        raise RpcFault(BAD_PARAMS, f"params: {len(values)} were given, but there are: {names}")
    values = values + [None] * (len(expected) - len(values))
    return [_read(*pair) for pair in zip(expected, values, strict=True)]


def _read(parameter: Parameter, value: object) -> object:
    if value is not None:
        return parameter.read(value, parameter.name)
    if parameter.default is REQUIRED:
        raise RpcFault(BAD_PARAMS, f"{parameter.name}: is missing")
    return parameter.default


# Plain values


def read_data(value: object, name: str) -> bytes:
    """Bytes from `0x` and an even number of digits."""
    digits = value[2:] if isinstance(value, str) and value.startswith("0x") else None
    if digits is None or len(digits) > MAX_DATA_CHARS or not _HEXADECIMAL.issuperset(digits):
        raise _wrong(value, name, f"0x-prefixed hexadecimal of at most {MAX_DATA_CHARS} digits")
    if len(digits) % 2:
        raise _wrong(value, name, "data, which has two digits for each byte")
    return bytes.fromhex(digits)


def read_quantity(value: object, name: str, largest: int = 2**256 - 1) -> int:
    """A number from `0x` and the fewest digits."""
    digits = _number_digits(value, name)
    if len(digits) > 1 and digits[0] == "0":
        raise _wrong(value, name, "a number without leading zeros")
    return _bounded(int(digits, 16), value, name, largest)


def read_slot(value: object, name: str) -> int:
    """A storage slot: up to 32 bytes, leading zeros allowed."""
    return int(_number_digits(value, name), 16)


def read_slots(value: object, name: str) -> list[int]:
    if not isinstance(value, list) or len(value) > MAX_SLOTS:
        raise _wrong(value, name, f"a list of at most {MAX_SLOTS} slots")
    return [read_slot(each, name) for each in value]


def read_address(value: object, name: str) -> Address:
    return Address(_sized(value, name, 20, "an address"))


def read_digest(value: object, name: str) -> Digest:
    return Digest(_sized(value, name, 32, "a hash"))


def read_flag(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise _wrong(value, name, "true or false")
    return value


def read_count(value: object, name: str) -> int:
    """A number of blocks: a quantity or, as go-ethereum allows, a JSON number; at least 1."""
    if isinstance(value, int) and not isinstance(value, bool):
        number = _bounded(value, value, name, MAX_HEIGHT)
    else:
        number = read_quantity(value, name, MAX_HEIGHT)
    if number < 1:
        raise _wrong(value, name, "a number of blocks, at least 1")
    return number


def read_index(value: object, name: str) -> int:
    """The place of a transaction in its block."""
    return read_quantity(value, name, MAX_HEIGHT)


def read_percentiles(value: object, name: str) -> tuple[float, ...]:
    """Numbers from 0 to 100 that do not fall."""
    if not isinstance(value, list) or len(value) > MAX_PERCENTILES:
        raise _wrong(value, name, f"a list of at most {MAX_PERCENTILES} numbers")
    last = 0.0
    for each in value:
        if isinstance(each, bool) or not isinstance(each, int | float) or not last <= each <= 100:
            raise _wrong(each, name, "a percentile from 0 to 100, at least the one before it")
        last = float(each)
    return tuple(map(float, value))


def read_filter_name(value: object, name: str) -> str:
    """The name of an installed filter, as given by this node."""
    return hex(read_quantity(value, name))


# Blocks


def read_height(value: object, name: str) -> Height:
    """A block's number or tag."""
    if value == "earliest" or value == "latest" or value == "pending":
        return value
    if value == "safe" or value == "finalized":
        return "latest"
    if not isinstance(value, str) or not value.startswith("0x"):
        raise _wrong(value, name, "a block: a 0x-prefixed number, latest, earliest or pending")
    return read_quantity(value, name, MAX_HEIGHT)


def read_place(value: object, name: str) -> Height | Digest:
    """A block whose state is asked for: a number, a tag, or an object of EIP-1898 with either the
    number or the hash."""
    if not isinstance(value, Mapping):
        return read_height(value, name)
    number, digest = value.get("blockNumber"), value.get("blockHash")
    if (number is None) == (digest is None):
        raise _wrong(value, name, "a block: give either blockNumber or blockHash")
    canonical = value.get("requireCanonical")
    if canonical is not None:  # every block here is
        read_flag(canonical, f"{name}.requireCanonical")
    if number is not None:
        return read_height(number, f"{name}.blockNumber")
    return read_digest(digest, f"{name}.blockHash")


# Calls


@dataclass(frozen=True)
class Call:
    """A call that is tried out: `gas` is None where the client sets no limit."""

    to: Address
    sender: Address | None
    data: bytes
    gas: int | None


def read_call(value: object, name: str) -> Call:
    """A call object. What this chain has no use for (fees, access lists) is passed over."""
    if not isinstance(value, Mapping):
        raise _wrong(value, name, "an object with to and data")

    def field(key: str, read: Reader) -> Any:
        return None if value.get(key) is None else read(value[key], f"{name}.{key}")

    to, sender = field("to", read_address), field("from", read_address)
    data, old_data = field("input", read_data), field("data", read_data)
    gas, wei = field("gas", read_quantity), field("value", read_quantity)
    if data is not None and old_data is not None and data != old_data:
        raise RpcFault(BAD_PARAMS, f"{name}: input and data differ; give one of them")
    if to is None:
        raise RpcFault(SERVER, "contracts cannot be created on this chain")
    if wei:
        raise RpcFault(SERVER, "insufficient funds for transfer: nobody has any wei here")
    if int.from_bytes(to, "big") < PRECOMPILES:
        raise RpcFault(SERVER, "the EVM's built-in functions are not served here")
    return Call(to, sender, data or old_data or b"", None if gas is None else min(gas, MAX_GAS))


def read_overrides(value: object, name: str) -> None:
    """State overrides: none, or an empty object."""
    if not isinstance(value, Mapping):
        raise _wrong(value, name, "an object")
    if value:
        raise RpcFault(BAD_PARAMS, f"{name}: state overrides are not supported")


# Logs


@dataclass(frozen=True)
class LogQuery:
    """Which logs, of which blocks: those from `first` to `last`, or the one named `block`.

    `topics` has a set of accepted values for each position; an empty set accepts all.
    """

    first: Height
    last: Height
    block: Digest | None
    addresses: frozenset[Address]
    topics: tuple[frozenset[Digest], ...]


def read_log_query(value: object, name: str) -> LogQuery:
    """A filter object."""
    if not isinstance(value, Mapping):
        raise _wrong(value, name, "an object")
    first, last, block = value.get("fromBlock"), value.get("toBlock"), value.get("blockHash")
    if block is not None and (first is not None or last is not None):
        raise RpcFault(BAD_PARAMS, f"{name}: give either blockHash or fromBlock and toBlock")
    query = LogQuery(
        "latest" if first is None else read_height(first, f"{name}.fromBlock"),
        "latest" if last is None else read_height(last, f"{name}.toBlock"),
        None if block is None else read_digest(block, f"{name}.blockHash"),
        frozenset(_several(value.get("address"), f"{name}.address", read_address, MAX_ADDRESSES)),
        _read_topics(value.get("topics"), f"{name}.topics"),
    )
    if isinstance(query.first, int) and isinstance(query.last, int) and query.first > query.last:
        raise RpcFault(BAD_PARAMS, f"{name}: invalid block range, fromBlock is after toBlock")
    return query


def _read_topics(value: object, name: str) -> tuple[frozenset[Digest], ...]:
    positions = [] if value is None else value
    if not isinstance(positions, list) or len(positions) > MAX_TOPICS:
        raise _wrong(value, name, f"a list of at most {MAX_TOPICS}")
    return tuple(
        frozenset(_several(each, f"{name}[{i}]", read_digest, MAX_CHOICES))
        for i, each in enumerate(positions)
    )


def _several(value: object, name: str, read: Reader, most: int) -> list[Any]:
    """One value, a list of some, or null for any."""
    values = [] if value is None else value if isinstance(value, list) else [value]
    if len(values) > most:
        raise _wrong(value, name, f"a list of at most {most}")
    return [read(each, name) for each in values]


# Inside


def _number_digits(value: object, name: str) -> str:
    digits = value[2:] if isinstance(value, str) and value.startswith("0x") else ""
    if not 0 < len(digits) <= 64 or not _HEXADECIMAL.issuperset(digits):
        raise _wrong(value, name, "a 0x-prefixed hexadecimal number of at most 64 digits")
    return digits


def _bounded(number: int, value: object, name: str, largest: int) -> int:
    if not 0 <= number <= largest:
        raise _wrong(value, name, f"a number from 0 to {largest:#x}")
    return number


def _sized(value: object, name: str, size: int, what: str) -> bytes:
    content = read_data(value, name)
    if len(content) != size:
        raise _wrong(value, name, f"{what} of {size} bytes")
    return content


def _wrong(value: object, name: str, wanted: str) -> RpcFault:
    return RpcFault(BAD_PARAMS, f"{name}: {_shown(value)} is not {wanted}")


def _shown(value: object) -> str:
    """A value in a few words, however large it is."""
    if isinstance(value, str):
        return ascii(value[:_SHOWN_CHARS]) + ("…" if len(value) > _SHOWN_CHARS else "")
    if isinstance(value, Mapping):
        return "an object" if value else "an empty object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, int) and value.bit_length() > 64:
        return f"a number of {value.bit_length()} bits"
    return "null" if value is None else repr(value)[:_SHOWN_CHARS].lower()
