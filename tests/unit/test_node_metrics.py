"""What a node tells Prometheus, read by Prometheus's own client."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h11
import pytest
import trio
import yaml

from swarm.node.http_door import open_http
from swarm.node.metrics import prometheus_text
from swarm.node.status import PlanStatus

ALERTS = Path(__file__).parents[2] / "node_configs" / "prometheus" / "alerts.yaml"


def status() -> Any:
    plan = dict.fromkeys(PlanStatus.__struct_fields__)
    named = {"id": 3, "name": "Sepsis", "rounds": 20, "model_round": 7}
    said = {**plan, **named, "waits_for": ["Kyoto"], "halted": "no rows"}
    return SimpleNamespace(
        height=12,
        peers=[
            SimpleNamespace(name='St. "Mary"\\\n', connected=True, clock_s=0.5),
            SimpleNamespace(name="Kyoto", connected=False, clock_s=None),
        ],
        notes=[],
        bytes_sent=1000,
        bytes_received=2000,
        asked={"4": "Stroke"},
        plans=[PlanStatus(**said)],
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


def test_every_alert_is_about_a_number_that_a_node_tells() -> None:
    told = {name for name, _ in read(prometheus_text(status()))} | {"up"}
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    for rule in group["rules"]:
        assert any(name in rule["expr"] for name in told), rule["alert"]
        assert "`" in rule["annotations"]["summary"]


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
