"""Alerts: found in what a node says of itself, posted to a webhook, once."""

from __future__ import annotations

import json
import stat
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
from harness.webhook import receive

from swarm.errors import ConfigurationError, RemoteError
from swarm.node.alerts import alerting
from swarm.node.alerts.alerting import FORGET_S, MAX_WAITING, Alerting, Message, Standing
from swarm.node.alerts.causes import Alert, find_alerts
from swarm.node.alerts.webhook import open_webhook, read_token
from swarm.node.doctor import Check
from swarm.node.home.config import load_config, private_paths
from swarm.node.status import PeerStatus, PlanStatus, left_out

AWAY = Alert(key="away: Kyoto", cause="Kyoto is not connected", command="swarm node status")


def peer(name: str, **changes: Any) -> PeerStatus:
    said: dict[str, Any] = {
        "connected": True,
        "remote": None,
        "failed_dials": {},
        "release": "",
        "clock_s": 0.1,
        "notes": [],
    }
    return PeerStatus(name=name, **said | changes)


def status(*peers: PeerStatus, **changes: Any) -> Any:
    said: dict[str, Any] = {
        "name": "St. Mary",
        "peers": list(peers),
        "height": 12,
        "chain": {"round": 0, "waiting_for": []},
        "asked": {},
        "refused_plans": {},
        "plans": [],
        "clock_ahead_s": None,
        "key_elsewhere": [],
    }
    return SimpleNamespace(**said | changes)


def plan(**changes: Any) -> PlanStatus:
    said = {**dict.fromkeys(PlanStatus.__struct_fields__), "id": 3, "name": "Sepsis", "records": []}
    return PlanStatus(**said | changes)


def keys(*alerts: Alert) -> list[str]:
    return [alert.key for alert in alerts]


WELL = (peer("Kyoto"), peer("Turin"))
FULL = Check("disk", "wrong", "0.1 GB free in hospital", "du -sh hospital/*")
CAUSES: dict[str, tuple[Any, tuple[Check, ...]]] = {
    "away: Kyoto": (status(peer("Kyoto", connected=False), peer("Turin")), ()),
    "alone": (status(peer("Kyoto", connected=False), peer("Turin", connected=False)), ()),
    "chain": (status(*WELL, chain={"round": 2, "waiting_for": ["Kyoto"]}), ()),
    "key": (status(*WELL, key_elsewhere=["Kyoto"]), ()),
    "key: Kyoto": (status(peer("Kyoto", key_twice=True), peer("Turin")), ()),
    "clock": (status(peer("Kyoto", clock_s=-9.0), peer("Turin"), clock_ahead_s=9.0), ()),
    "clock: Kyoto": (status(peer("Kyoto", clock_s=300.0), peer("Turin")), ()),
    "asked: 4": (status(*WELL, asked={"4": "Stroke"}), ()),
    "refused: 4": (status(*WELL, refused_plans={"4": "its code was changed"}), ()),
    "halted: 3": (status(*WELL, plans=[plan(halted="no rows")]), ()),
    "left out: 3": (status(*WELL, plans=[plan(left_out="not finite")]), ()),
    "disk": (status(*WELL), (FULL,)),
}


@pytest.mark.parametrize("key", CAUSES)
def test_each_cause_is_one_alert_that_names_it_and_comes_with_a_command(key: str) -> None:
    [alert] = find_alerts(*CAUSES[key], "hospital")
    assert alert.key == key
    assert alert.cause
    assert alert.command


def test_a_node_without_trouble_has_no_alert() -> None:
    well = Check("disk", "good", "90 GB free")
    assert find_alerts(status(*WELL, plans=[plan()]), [well], "h") == []


def test_an_update_is_left_out_if_the_newest_rounds_leader_says_so_and_nobody_withdrew() -> None:
    before = {"omitted": {"St. Mary": "not finite"}}
    assert left_out([before], "St. Mary") == "not finite"
    assert left_out([before], "Kyoto") is None
    assert left_out([before, {"omitted": {}}], "St. Mary") is None
    assert left_out([{"omitted": {"St. Mary": "withdrawn"}}], "St. Mary") is None
    assert left_out([], "St. Mary") is None


def looked(standing: Standing, *alerts: Alert, at: float) -> list[str]:
    standing.look(alerts, at, 1_800_000_000 + at)
    return list(standing.waiting)


def test_an_alert_is_due_once_it_has_settled_and_never_again_while_it_stands() -> None:
    standing = Standing("St. Mary")
    assert looked(standing, AWAY, at=0) == []
    assert looked(standing, at=2) == []
    assert looked(standing, AWAY, at=3) == []
    assert looked(standing, AWAY, at=7) == [AWAY.key]
    message = standing.waiting[AWAY.key]
    assert message.since == "2027-01-15T08:00:03+00:00"
    assert message.text == "St. Mary: Kyoto is not connected. Next: swarm node status"
    standing.posted(AWAY.key)
    for at in range(8, 100_000, 500):
        assert looked(standing, AWAY, at=at) == []


def test_a_member_that_comes_and_goes_is_one_alert_and_one_that_stayed_is_another() -> None:
    standing = Standing("St. Mary", told={AWAY.key: "an earlier one, from before a restart"})
    at = 0.0
    for _ in range(20):
        assert looked(standing, AWAY, at=at) == looked(standing, at=at + FORGET_S - 5) == []
        at += FORGET_S
    looked(standing, at=at)
    looked(standing, at=at + FORGET_S)
    looked(standing, AWAY, at=at + FORGET_S + 4)
    assert looked(standing, AWAY, at=at + FORGET_S + 8) == [AWAY.key]


def test_a_chain_that_is_slow_but_goes_on_is_no_alert() -> None:
    standing = Standing("St. Mary")
    for height in range(40):
        slow = status(*WELL, height=height, chain={"round": 1, "waiting_for": ["Kyoto"]})
        assert looked(standing, *find_alerts(slow, [], "h"), at=8.0 * height) == []
    assert looked(standing, *find_alerts(slow, [], "h"), at=8.0 * 41) == ["chain"]


def test_what_waits_to_be_posted_is_bounded_and_the_rest_comes_when_there_is_room() -> None:
    standing = Standing("St. Mary")
    many = [Alert(key=str(n), cause="c", command="d") for n in range(MAX_WAITING + 5)]
    looked(standing, *many, at=0)
    waiting = looked(standing, *many, at=10)
    assert len(waiting) == MAX_WAITING
    for key in waiting:
        standing.posted(key)
    assert len(looked(standing, *many, at=14)) == 5


def test_names_of_others_cannot_hide_anything_in_a_message() -> None:
    evil = Alert(key="k", cause="K\x1b[2J\u202e is away", command="look")
    assert alerting.message_of("M", evil, 0).cause == "K\\x1b[2J\\u202e is away"


class Receiver:
    """A webhook that fails for so many times, in virtual time."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.tried_at: list[float] = []
        self.got: list[Message] = []

    async def post(self, message: Message) -> None:
        self.tried_at.append(trio.current_time())
        if self.failures:
            self.failures -= 1
            raise RemoteError("alerts.example answers 503")
        self.got.append(message)


def live(path: Path, receiver: Receiver, alerts: Sequence[Alert], for_s: float) -> Alerting:
    """A node's alerting from its start, for so long."""

    async def find() -> Sequence[Alert]:
        return alerts

    told = Alerting("St. Mary", path, find, receiver.post)

    async def run() -> None:
        with trio.move_on_after(for_s):
            await told.run()

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0.001))
    return told


def test_an_alert_is_posted_within_half_a_minute_and_not_again_after_a_restart(
    tmp_path: Path,
) -> None:
    receiver, file = Receiver(), tmp_path / alerting.FILE
    live(file, receiver, [AWAY], 30)
    assert [message.alert for message in receiver.got] == [AWAY.key]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    live(file, receiver, [AWAY], 600)
    assert len(receiver.got) == 1
    live(file, receiver, [], FORGET_S + 60)
    assert json.loads(file.read_text()) == {}
    live(file, receiver, [AWAY], 30)
    assert len({message.id for message in receiver.got}) == len(receiver.got) == 2


def test_a_receiver_that_fails_is_tried_again_with_growing_pauses_and_named(
    tmp_path: Path,
) -> None:
    receiver = Receiver(failures=9)
    failing = live(tmp_path / "a.json", receiver, [AWAY], 120)
    pauses = [b - a for a, b in zip(receiver.tried_at, receiver.tried_at[1:], strict=False)]
    assert [round(pause) for pause in pauses] == [1, 2, 4, 8, 16, 32][: len(pauses)]
    assert len(pauses) >= 5
    assert failing.fault == "alerts.example answers 503"
    receiver.failures = 0
    assert live(tmp_path / "a.json", receiver, [AWAY], 60).fault == ""
    assert len(receiver.got) == 1


def test_a_file_that_cannot_be_read_or_written_costs_a_repetition_and_no_more(
    tmp_path: Path,
) -> None:
    receiver, file = Receiver(), tmp_path / "none" / alerting.FILE
    live(file, receiver, [AWAY], 60)
    file.parent.mkdir()
    file.write_bytes(b"{")
    live(file, receiver, [AWAY], 60)
    assert len(receiver.got) == 2


def test_a_real_server_gets_the_message_as_json_with_the_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://192.0.2.1:1")  # not for this machine itself
    token = tmp_path / "token"
    token.write_text("s3cret\n")
    token.chmod(0o600)
    message = alerting.message_of("St. Mary", AWAY, 1_800_000_000.0)
    with receive() as (url, got):
        trio.run(open_webhook(url, read_token(token)), message)
    [(authorization, said)] = got
    assert authorization == "Bearer s3cret"
    assert said == {
        "id": "St. Mary: away: Kyoto, 1800000000.000",
        "node": "St. Mary",
        "alert": "away: Kyoto",
        "cause": "Kyoto is not connected",
        "command": "swarm node status",
        "since": "2027-01-15T08:00:00+00:00",
        "text": "St. Mary: Kyoto is not connected. Next: swarm node status",
    }


@pytest.mark.parametrize("answer", [302, 401, 500])
def test_a_refusal_and_a_redirection_are_faults_that_name_the_host_and_nothing_secret(
    answer: int,
) -> None:
    message = alerting.message_of("St. Mary", AWAY, 0)
    with receive(answer) as (url, got):
        with pytest.raises(RemoteError, match=rf"^127\.0\.0\.1 answers {answer}: ") as refused:
            trio.run(open_webhook(url, None), message)
        assert len(got) == 1
    assert "/hook" not in str(refused.value)
    with pytest.raises(RemoteError, match=r"127\.0\.0\.1 cannot be posted to"):
        trio.run(open_webhook(url, None), message)


@pytest.mark.parametrize(
    ("webhook", "why"),
    [
        ("http://alerts.example/x", "in the clear"),
        ("https://", "no address"),
        ("https://me:secret@alerts.example/x", "no address"),
        ("ftp://alerts.example/x", "no address"),
        ("https://alerts.example:99999/x", "no address"),
        ("http://[::1", "no address"),
        ("http://localhost.alerts.example/x", "in the clear"),
    ],
)
def test_a_webhook_that_would_carry_an_alert_in_the_clear_is_refused_at_start(
    tmp_path: Path, webhook: str, why: str
) -> None:
    (tmp_path / "node.toml").write_text(f'name = "M"\n[alerts]\nwebhook = "{webhook}"\n')
    with pytest.raises(ConfigurationError, match=rf"node\.toml: `alerts.webhook` .*{why}"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    "webhook",
    ["https://a.example/x", "http://127.0.0.1:9/x", "http://[::1]:9/", "http://localhost"],
)
def test_https_and_this_machine_are_fine_and_no_plan_reads_the_token(
    tmp_path: Path, webhook: str
) -> None:
    text = f'name = "M"\n[alerts]\nwebhook = "{webhook}"\ntoken_file = "/run/token"\n'
    (tmp_path / "node.toml").write_text(text)
    assert Path("/run/token") in private_paths(tmp_path, load_config(tmp_path))
