"""What a node tells Prometheus, read by Prometheus's own client."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h11
import pytest
import trio
import yaml

from swarm.node.http_door import open_http
from swarm.node.metrics import prometheus_text
from swarm.node.status import PlanStatus, TrainingStatus

CONFIGS = Path(__file__).parents[2] / "node_configs"
ALERTS = CONFIGS / "prometheus" / "alerts.yaml"
BOARD = CONFIGS / "grafana" / "board.json"


def status() -> Any:
    """A node of which everything can be told."""
    plan = dict.fromkeys(PlanStatus.__struct_fields__)
    scores = {"validation": {"auc": 0.75, "loss": None}}
    final = {"model": "0x11", "metrics": scores, "total_s": 4.5}
    named = {"id": 3, "name": "Sepsis", "rounds": 20, "model_round": 7, "records": [final]}
    named["training"] = TrainingStatus(0.25, 1, 0.5)
    said = {**plan, **named, "waits_for": ["Kyoto"], "halted": "no rows"}
    open_round = {"model": "", "metrics": {}, "total_s": 0.0}
    young = {**said, "id": 4, "records": [open_round], "training": None, "left_out": "not finite"}
    peer = {"key_twice": False}
    return SimpleNamespace(
        name="St. Mary",
        height=12,
        chain={"round": 2, "waiting_for": ["Kyoto"]},
        peers=[
            SimpleNamespace(**peer, name='St. "Mary"\\\n', connected=True, clock_s=0.5),
            SimpleNamespace(**peer, name="Kyoto", connected=False, clock_s=None),
        ],
        notes=[],
        bytes_sent=1000,
        bytes_received=2000,
        asked={"4": "Stroke"},
        key_elsewhere=["Kyoto"],
        privacy=SimpleNamespace(spent=1.5),
        plans=[PlanStatus(**said), PlanStatus(**young)],
    )


def read(text: bytes) -> dict[tuple[str, tuple[str, ...]], float]:
    parser = pytest.importorskip("prometheus_client.parser", reason="needs prometheus_client")
    families = parser.text_string_to_metric_families(text.decode())
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def test_a_status_is_read_as_numbers_with_the_names_that_members_have() -> None:
    found = read(prometheus_text(status()))
    assert found["swarm_height", ()] == 12
    assert found["swarm_peer_connected", ('St. "Mary"\\\n',)] == 1
    assert found["swarm_peer_connected", ("Kyoto",)] == 0
    assert found["swarm_peer_clock_ahead_seconds", ('St. "Mary"\\\n',)] == 0.5
    assert ("swarm_peer_clock_ahead_seconds", ("Kyoto",)) not in found
    assert found["swarm_sent_bytes_total", ()] == 1000
    assert found["swarm_plan_round", ("3", "Sepsis")] == 7
    assert found["swarm_plan_halted", ("3", "Sepsis")] == 1
    assert found["swarm_plan_waits_for", ("3", "Sepsis")] == 1
    assert found["swarm_plan_training_ratio", ("3", "Sepsis")] == 0.25
    assert found["swarm_plan_round_seconds", ("3", "Sepsis")] == 4.5
    assert found["swarm_plan_left_out", ("4", "Sepsis")] == 1
    assert found["swarm_chain_waits_for", ()] == 1
    scores = {labels: value for (name, labels), value in found.items() if name.endswith("_score")}
    assert scores == {("3", "Sepsis", "validation", "auc"): 0.75}


def told_names() -> set[str]:
    """All that a node can tell, and what Prometheus tells of each node that it asks."""
    return {name for name, _ in read(prometheus_text(status()))} | {"up"}


def names_in(expression: str) -> set[str]:
    """The metrics of a PromQL expression: words that are no label, no function, no keyword."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|by \([^)]*\)", " ", expression)
    return set(re.findall(r"\b[a-z_]+\b(?!\s*\()", bare)) - {"sum", "and", "or", "by"}


def test_the_names_in_an_expression_are_found() -> None:
    text = 'sum by (instance) (1 - a_b{job="x"}) / rate(c_total[5m]) > 2 and d == 0'
    assert names_in(text) == {"a_b", "c_total", "d"}


def test_every_alert_is_about_numbers_that_a_node_tells_and_names_a_command() -> None:
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    for rule in group["rules"]:
        assert names_in(rule["expr"]), rule["alert"]
        assert names_in(rule["expr"]) <= told_names(), rule["alert"]
        assert "`" in rule["annotations"]["summary"]


def test_every_panel_shows_numbers_that_a_node_tells_and_nothing_is_told_unseen() -> None:
    board = json.loads(BOARD.read_text())
    shown = set()
    for panel in board["panels"]:
        for target in panel["targets"]:
            names = names_in(target["expr"])
            assert names, panel["title"]
            assert names <= told_names(), panel["title"]
            assert all("$instance" in x for x in re.findall(r"\{[^}]*\}", target["expr"]))
            shown |= names
    assert told_names() - shown == {"swarm_node_info"}


def test_no_two_panels_of_the_board_lie_upon_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(BOARD.read_text())["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"])
                 for y in range(at["y"], at["y"] + at["h"])}  # fmt: skip
        assert not cells & taken, panel["title"]
        taken |= cells


def test_the_door_gives_the_text_as_prometheus_wants_it() -> None:
    async def main() -> tuple[h11.Response, bytes]:
        with trio.fail_after(10):
            rpc: Any = None
            async with open_http("127.0.0.1:0", rpc, dict, metrics=lambda: b"swarm_x 1\n") as url:
                host, port = url.removeprefix("http://").split(":")
                stream = await trio.open_tcp_stream(host, int(port))
                http = h11.Connection(h11.CLIENT)
                asked = h11.Request(method="GET", target="/metrics", headers=[("host", host)])
                await stream.send_all(http.send(asked) + http.send(h11.EndOfMessage()))
                events: list[Any] = []
                while not events or not isinstance(events[-1], h11.EndOfMessage):
                    event = http.next_event()
                    if event is h11.NEED_DATA:
                        http.receive_data(await stream.receive_some(4096))
                    else:
                        events.append(event)
                return events[0], bytes(events[1].data)

    head, body = trio.run(main)
    assert (head.status_code, body) == (200, b"swarm_x 1\n")
    assert dict(head.headers)[b"content-type"].startswith(b"text/plain; version=0.0.4")
