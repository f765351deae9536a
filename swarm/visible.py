"""Foreign text made visible: what a reader sees is what is there.

Names, code, refusals and log lines come from others. A carriage return or an escape sequence hides
what a terminal has shown, a bidirectional control shows code in another order than Python reads it,
a character without width tells two equal-looking names apart, a line break forges a line of a log.
Every character that does not show itself is written as `\\x1b` or `\\u202e` instead.
"""

from __future__ import annotations

import json
import logging
import re
import unicodedata
from collections.abc import Mapping
from datetime import datetime
from types import TracebackType
from typing import Any

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
NAMED_FROM = "0x"
"""What no text without an address lacks."""

_CONTROLS = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_INVISIBLE_LETTERS = frozenset(
    # Letters, marks and symbols of no width or no ink.
    (
        *(0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0),
        *range(0x180B, 0x1810),
        *range(0xFE00, 0xFE10),
        *range(0xE0100, 0xE01F0),
    )
)


def is_hidden(character: str) -> bool:
    """Whether a character takes part in what a text means, and not in how it looks: controls,
    format characters, line separators, and letters without ink. The space is not one of them."""
    return unicodedata.category(character) in _CONTROLS or ord(character) in _INVISIBLE_LETTERS


def find_hidden(line: str) -> str | None:
    """The first hidden character; quick where there is none."""
    if line.isascii() and line.isprintable():
        return None
    return next(filter(is_hidden, line), None)


def visible(text: object) -> str:
    """One line of text in which everything shows."""
    line = str(text)
    return line if line.isascii() and line.isprintable() else "".join(map(_shown, line))


def visible_lines(text: str) -> list[str]:
    """The lines of a text, as an editor numbers them; tabs stay."""
    lines = text.replace("\r\n", "\n").split("\n")
    return ["\t".join(map(visible, line.split("\t"))) for line in lines]


def visible_in(value: Any) -> Any:
    """The same value with all text in it visible, keys too."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {visible_in(key): visible_in(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [visible_in(item) for item in value]
    return value


def visible_json(text: str) -> str:
    """JSON that says the same, in which everything shows; its line breaks stay."""
    return "".join(c if c == "\n" or not is_hidden(c) else _utf16_escape(c) for c in text)


def _shown(character: str) -> str:
    if character.isprintable() and not is_hidden(character):
        return character
    number = ord(character)
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def _utf16_escape(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


_ADDRESS = re.compile(r"0x[0-9a-f]{40}\b")
_names: dict[str, str] = {}


def name_addresses(names: Mapping[str, str]) -> None:
    """From now on, log lines tell these addresses (in hex) with the names of who has them."""
    _names.clear()
    _names.update(names)


def with_names(text: str) -> str:
    """The text with the name of its member before each address, as `name_addresses` was told."""
    return _ADDRESS.sub(_named, text) if NAMED_FROM in text else text


def _named(found: re.Match[str]) -> str:
    name = _names.get(found[0])
    return found[0] if name is None else f"{name} ({found[0]})"


class VisibleFormatter(logging.Formatter):
    """Log lines that nobody can forge: a message is one line, and what follows it is indented."""

    def __init__(self) -> None:
        super().__init__(LOG_FORMAT)

    def formatTime(  # noqa: N802
        self, record: logging.LogRecord, datefmt: str | None = None
    ) -> str:
        return _time_of(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return visible(with_names(super().formatMessage(record)))

    def formatException(  # noqa: N802
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None]
        | tuple[None, None, None],
    ) -> str:
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802
        return _indented(super().formatStack(stack_info))


class JsonFormatter(logging.Formatter):
    """Log lines for programs: a JSON object each, with `time` (ISO 8601, with the zone), `level`,
    `logger`, `message`, and `exception` where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        said = {
            "time": _time_of(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": with_names(record.getMessage()),
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return visible_json(json.dumps(said, ensure_ascii=False))


def _time_of(record: logging.LogRecord) -> str:
    """With the zone: members in several compare their logs."""
    return datetime.fromtimestamp(record.created).astimezone().isoformat(" ", "milliseconds")


def _indented(text: str) -> str:
    return "\n".join("    " + line for line in visible_lines(text))
