"""A node's log: bounded on the disk, in text or JSON, with a zone, and with a name at each key."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from swarm.errors import ConfigurationError
from swarm.node import log_output
from swarm.node.home.config import Log, load_config
from swarm.node.log_output import open_log
from swarm.visible import name_addresses

KYOTO = "0x" + "ab" * 20
log = logging.getLogger("swarm.node")


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in root.handlers:
        if handler not in handlers:
            handler.close()
    root.handlers[:], root.level = handlers, level
    name_addresses({})


def settings(home: Path, text: str) -> Log:
    (home / "node.toml").write_text(f'name = "x"\n[log]\n{text}')
    return load_config(home).log


def test_a_log_takes_no_more_room_than_its_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_output, "MEGABYTE", 1000)
    open_log(tmp_path, settings(tmp_path, 'file = "node.log"\nmax_mb = 1\nkeep = 2'))
    for number in range(200):
        log.info("line %d", number)
    files = {path.name: path.stat().st_size for path in tmp_path.glob("node.log*")}
    assert set(files) == {"node.log", "node.log.1", "node.log.2"}
    assert max(files.values()) <= 1000
    assert "line 199" in (tmp_path / "node.log").read_text()


def test_only_what_is_as_grave_as_the_level_is_written(tmp_path: Path) -> None:
    open_log(tmp_path, settings(tmp_path, 'file = "node.log"\nlevel = "warning"'))
    log.info("usual")
    log.warning("grave")
    text = (tmp_path / "node.log").read_text()
    assert "grave" in text
    assert "usual" not in text


def test_each_json_line_is_an_object_with_zone_level_logger_and_names(tmp_path: Path) -> None:
    name_addresses({KYOTO: "Kyoto"})
    open_log(tmp_path, settings(tmp_path, 'file = "node.log"\nformat = "json"'))
    log.warning("lost %s\nat %s", KYOTO, "\u202e")
    try:
        raise ValueError(7)
    except ValueError:
        log.exception("a fault")
    first, second = map(json.loads, (tmp_path / "node.log").read_text().splitlines())
    assert datetime.fromisoformat(first["time"]).tzinfo is not None
    assert (first["level"], first["logger"]) == ("warning", "swarm.node")
    assert first["message"] == f"lost Kyoto ({KYOTO})\nat \u202e"
    assert "\u202e" not in (tmp_path / "node.log").read_text()
    assert "ValueError: 7" in second["exception"]
    assert "exception" not in first


def test_a_log_that_cannot_be_written_is_named_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"`log\.file` is .*/gone/node\.log, which cannot"):
        open_log(tmp_path, settings(tmp_path, 'file = "gone/node.log"'))


def test_without_a_file_the_log_goes_to_the_terminal(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert open_log(tmp_path, Log()) is None
    log.info("up")
    assert "INFO swarm.node: up" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('level = "loud"', "`log.level`"),
        ('format = "xml"', "`log.format`"),
        ("max_mb = 0", "`log.max_mb`"),
        ("keep = 0", "`log.keep`"),
    ],
)
def test_a_setting_that_is_none_is_named(tmp_path: Path, text: str, place: str) -> None:
    with pytest.raises(ConfigurationError, match=place):
        settings(tmp_path, text)
