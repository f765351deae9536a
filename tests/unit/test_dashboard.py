"""The dashboard: who may come in, and what its pictures say."""

from __future__ import annotations

from contextlib import closing, suppress
from typing import Any

import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from swarm.dashboard.access import MAX_BODY_BYTES, Access, Tickets
from swarm.dashboard.pages import PAGES, PLAN_PAGE, Dashboard
from swarm.dashboard.pictures import member_pictures, plan_pictures, series, tables
from swarm.dashboard.serving import serve
from swarm.dashboard.watching import Seen, Watch
from swarm.node.outgoing.log import OUTGOING, OutgoingLog

HOST = "127.0.0.1:8600"
ORIGIN = {"origin": f"http://{HOST}"}


async def inside(request: Request) -> Response:
    return PlainTextResponse(f"inside, {len(await request.body())} bytes")


@pytest.fixture
def tickets() -> Tickets:
    return Tickets()


@pytest.fixture
def browser(tickets: Tickets) -> TestClient:
    """One that has not come in yet."""
    routes = [Route("/", inside, methods=["GET", "POST"])]
    app = Access(Starlette(routes=routes), tickets, frozenset({HOST}))
    return TestClient(app, base_url=f"http://{HOST}", backend="trio")


@pytest.fixture
def guest(browser: TestClient, tickets: Tickets) -> TestClient:
    """One that has."""
    assert browser.get(f"/enter?token={tickets.token}").text.startswith("inside")
    return browser


def test_the_link_opens_the_door_once(browser: TestClient, tickets: Tickets) -> None:
    link = f"/enter?token={tickets.token}"
    assert browser.get("/").status_code == 401
    assert browser.get("/enter?token=guessed").status_code == 401
    assert browser.get(link).text == "inside, 0 bytes"
    assert browser.get("/").status_code == 200
    thief = TestClient(browser.app, base_url=f"http://{HOST}", backend="trio")
    answer = thief.get(link)
    assert answer.status_code == 401
    assert "used already" in answer.text
    assert thief.get("/", headers={"cookie": "swarm-dashboard=stolen"}).status_code == 401


@pytest.mark.parametrize("host", ["evil.example:8600", "127.0.0.1:1", "", "localhost:8600"])
def test_another_name_of_this_machine_is_refused(guest: TestClient, host: str) -> None:
    assert guest.get("/", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("origin", ["http://evil.example", "null", f"https://{HOST}"])
def test_other_pages_are_refused(guest: TestClient, origin: str) -> None:
    assert guest.post("/", headers={"origin": origin}).status_code == 403
    assert guest.get("/", headers={"origin": origin}).status_code == 403


def test_what_changes_something_must_say_which_page_asks(guest: TestClient) -> None:
    assert guest.post("/").status_code == 403
    assert guest.post("/", headers=ORIGIN, content=b"four").text == "inside, 4 bytes"


def test_large_bodies_are_refused(guest: TestClient) -> None:
    assert guest.post("/", headers=ORIGIN, content=b" " * (MAX_BODY_BYTES + 1)).status_code == 413


def test_every_answer_forbids_scripts_of_others(guest: TestClient) -> None:
    for answer in (guest.get("/"), guest.get("/", headers={"host": "evil"})):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("digits", [16, 20, 5000])
def test_a_number_that_no_plan_can_have_is_a_page_that_is_not_there(
    tmp_path: Any, digits: int
) -> None:
    pages = TestClient(Dashboard(Watch(tmp_path)).app(), backend="trio")
    number = "9" * digits
    assert pages.get(f"/consent/{number}").status_code == 404
    assert pages.post(f"/consent/{number}/withdraw").status_code == 404
    assert pages.post(f"/vote/{number}/yes").status_code == 404


def test_a_client_that_goes_on_sending_ends_its_own_connection_alone(tmp_path: Any) -> None:
    """More than what it asks to close after: hypercorn then writes from two tasks at once."""
    rude = f"GET /enter?token=x HTTP/1.1\r\nHost: {{}}\r\nConnection: close\r\n\r\n{'x' * 400}"

    async def page(place: str, request: str) -> bytes:
        host, port = place.split(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(request.format(place).encode())
            answer = b""
            with suppress(trio.BrokenResourceError), trio.move_on_after(5):
                while piece := await stream.receive_some(4096):
                    answer += piece
            return answer

    async def main() -> None:
        opened = trio.Event()
        links: list[str] = []

        def on_ready(link: str) -> None:
            links.append(link)
            opened.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, tmp_path, "127.0.0.1:0", on_ready)
            await opened.wait()
            place = links[0].removeprefix("http://").partition("/")[0]
            for _ in range(50):
                await page(place, rude)
            polite = rude.removesuffix("x" * 400)
            assert b" 401 " in await page(place, polite)
            nursery.cancel_scope.cancel()

    trio.run(main)


# Pictures.


def a_plan(**changes: Any) -> dict[str, Any]:
    return {
        "id": 1, "name": "Heart", "status": "running", "rounds": 20, "title": "round 7",
        "phase": "open", "leader": None, "waits_for": ["Kyoto"], "trainers": ["Basel", "Kyoto"],
        "submitted": ["Basel"], "merged": [], "attested": [], "training": None, "halted": None,
        "last_report": "", "model_round": 6,
    } | changes  # fmt: skip


def a_status(*plans: dict[str, Any], connected: tuple[str, ...] = ("Kyoto",)) -> dict[str, Any]:
    peers = [
        {"name": name, "connected": name in connected, "clock_s": 0.0, "release": "", "notes": []}
        for name in ("Kyoto", "Oslo")
    ]
    return {
        "name": "Basel", "connected": list(connected), "plans": list(plans), "dir": "/srv/my node",
        "pid": 7, "p2p": [], "rpc_url": "", "height": 3, "chain": {}, "peers": peers, "notes": [],
        "asked": {}, "refused_plans": {}, "sandbox": {"reach": []},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "connected", "headline", "tone"),
    [
        ({}, ("Kyoto",), "Round 7 of 20 waits for Kyoto (training)", "busy"),
        ({}, (), "Round 7 of 20 waits for Kyoto, which cannot be reached from Basel (training)",
         "bad"),
        ({"waits_for": ["Oslo", "Kyoto"]}, ("Kyoto",),
         "Round 7 of 20 waits for Oslo and Kyoto, of whom Oslo cannot be reached (training)",
         "bad"),
        ({"phase": "closed"}, ("Kyoto",), "Round 7 of 20 waits for Kyoto (merging)", "busy"),
        ({"waits_for": [], "phase": "final"}, (), "Round 7 of 20: final", "busy"),
        ({"title": None, "phase": None}, ("Kyoto",), "The first round waits for Kyoto", "busy"),
        ({"title": "statistics"}, ("Kyoto",), "Statistics waits for Kyoto (training)", "busy"),
        ({"status": "completed", "model_round": 20}, (), "completed after 20 of 20 rounds", "good"),
        ({"halted": "the loss is NaN"}, ("Kyoto",), "Round 7 of 20 waits for Kyoto (training)",
         "bad"),
    ],
)  # fmt: skip
def test_the_headline_says_who_is_waited_for_and_why(
    changes: dict[str, Any], connected: tuple[str, ...], headline: str, tone: str
) -> None:
    [picture] = plan_pictures(a_status(a_plan(**changes), connected=connected))
    # Only who is waited for and away makes it red.
    assert (picture.headline, picture.tone) == (headline, tone)


def test_lanes_tell_how_far_each_member_is() -> None:
    def steps(connected: tuple[str, ...] = ("Kyoto",), **changes: Any) -> dict[str, Any]:
        [picture] = plan_pictures(a_status(a_plan(**changes), connected=connected))
        return {lane.name: lane.steps for lane in picture.lanes}

    assert steps() == {"Basel": ("done", "done", "", ""), "Kyoto": ("now", "", "", "")}
    assert steps(())["Kyoto"] == ("late", "", "", "")
    closed = {"phase": "closed", "leader": "Basel"}
    assert steps(**closed) == {
        "Basel": ("done", "done", "now", ""),
        "Kyoto": ("none", "none", "", ""),
    }
    merged = closed | {"merged": ["Basel"], "attested": ["Basel"], "submitted": ["Basel", "Kyoto"]}
    assert steps(**merged) == {
        "Basel": ("done", "done", "done", "done"),
        "Kyoto": ("done", "done", "", "now"),
    }


def test_members_that_cannot_be_reached_are_red() -> None:
    def row(number: int, name: str, present: bool = True) -> dict[str, Any]:
        return {"id": number, "name": name, "present": present, "validator": True, "account": "0x1",
                "node": "0x2"}  # fmt: skip

    members = {"members": [row(0, "Basel"), row(1, "Kyoto"), row(2, "Rome", False), row(3, "Oslo")]}
    found = [(m.name, m.state, m.tone) for m in member_pictures(members, a_status())]
    assert found == [
        ("Basel", "this node", "good"),
        ("Kyoto", "connected", "good"),
        ("Oslo", "cannot be reached", "bad"),
        ("Rome", "left", ""),
    ]


def test_a_score_that_was_not_given_leaves_a_gap() -> None:
    def record(number: int | None, **validation: float | None) -> dict[str, Any]:
        return {"number": number, "model": "0x1", "metrics": {"validation": validation}}

    records = [record(None), record(1, auc=0.5), record(2), record(3, auc=None)]
    assert series(records) == {"auc": {"rounds": [1, 2, 3], "validation": [0.5, None, None]}}


def test_a_page_of_a_node_that_was_never_heard_says_why(tmp_path: Any) -> None:
    watch = Watch(tmp_path, Seen(None, "no node runs there: start it"))
    browser = TestClient(Dashboard(watch).app(), backend="trio")
    for page in PAGES:
        answer = browser.get(page.path)
        assert answer.status_code == 200
        assert "no node runs" in answer.text, page.path
    assert browser.get(PLAN_PAGE.path.replace("{plan:number}", "1")).status_code == 200


def test_results_show_every_sites_model_at_every_site(tmp_path: Any) -> None:
    def figure(value: float | None, rows: int, low: float | None = None) -> dict[str, Any]:
        return {"value": value, "low": low, "high": low and 0.9, "rows": rows}

    shared = {
        "model": "shared",
        "is_shared": True,
        "sites": {"Basel": figure(0.8, 40), "Kyoto": figure(None, 0)},
        "all": figure(0.8, 40, 0.7),
        "others": figure(0.8, 40, 0.7),
    }
    own = shared | {"model": "<b>asel", "is_shared": False, "others": figure(None, 0)}
    table = {"metrics": {"auc": {"models": [shared, own], "own": figure(0.8, 40, 0.7)}}}
    records = [{"table": None}, {"table": table | {"silent": []}}]
    assert tables(records) == [
        (
            ["auc", "Basel", "Kyoto", "all", "all but its own"],
            [
                ["shared model", "0.800 (40)", "– (0)", "0.800, 0.700 to 0.900 (40)", ""],
                ["<b>asel's", "0.800 (40)", "– (0)", "0.800, 0.700 to 0.900 (40)", "– (0)"],
                ["each its own", "", "", "0.800, 0.700 to 0.900 (40)", ""],
            ],
        )
    ]
    assert tables(records[:1]) == []

    class Told(Watch):
        async def fresh(self, method: str, /, **arguments: object) -> Any:
            round = {"title": "crossed", "leader": "Kyoto", "contributors": [], "omitted": {}}
            more = {"number": None, "model": "", "metrics": {}, "total_s": 1.0, "joint": {}}
            counted = {
                "figures": {"auc": figure(0.8, 90, 0.7)},
                "sites": {"Basel": {}, "Kyoto": {}},
            }
            scored = {"number": 1, "model": "0x1", "metrics": {"validation": {"auc": 0.75}}}
            scored |= {"title": "round 1", "joint": {"validation": {"auc": counted}}}
            return [round | more | scored, round | more | records[1]]

    watch = Told(tmp_path, Seen(a_status(a_plan()), ""))
    page = TestClient(Dashboard(watch).app(), backend="trio").get("/results").text
    assert "Every site's model at every site: auc" in page
    assert "&lt;b&gt;asel" in page
    assert "<td>0.800 (0.700 to 0.900) of 2</td><td>0.750</td>" in page
    assert "0.800, 0.700 to 0.900 (40)" in page


SHOWN: dict[str, Any] = {
    "id": 4, "name": "Stroke", "proposer": "Kyoto", "status": "proposed", "participants": [],
    "undecided": ["Basel", "Kyoto"], "digest": "0x12", "base": "0x34", "begins": "",
    "secrecy": ["NOT SECURE: members that merge or check a round read each site's update"],
    "rules": {"rounds": 7, "min_peers": 3, "min_rows": 50, "verify_level": "full", "grace_s": 2,
              "liveness_s": 20, "max_round_s": 3600, "window_s": 0},
    "stages": [{"name": "training", "task": "train", "merge": "", "rounds": 6, "slot": 0,
                "epochs": 0, "written": 20, "before": 0, "ends": False}],
    "privacy": None, "imports": [{"module": "torch"}, {"module": "numpy"}],
    "policy": ["`policy.imports` does not name numpy"], "code": {"plan.py": "import torch\n"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "buttons"),
    [
        ({}, {"Consent", "Decline"}),
        ({"status": "running"}, {"Consent", "Decline"}),
        ({"status": "running", "participants": ["Basel"]}, {"Withdraw"}),
        ({"status": "completed"}, set()),
    ],
)
def test_a_plans_page_says_what_consent_means_and_offers_what_can_be_answered(
    tmp_path: Any, changes: dict[str, Any], buttons: set[str]
) -> None:
    class Told(Watch):
        async def fresh(self, method: str, /, **arguments: object) -> Any:
            return SHOWN | changes

    watch = Told(tmp_path, Seen(a_status(), ""))
    page = TestClient(Dashboard(watch).app(), backend="trio").get("/consent/4").text
    assert {name for name in ("Consent", "Decline", "Withdraw") if f">{name}</button>" in page} == (
        buttons
    )
    for fact in (
        "NOT SECURE",
        "no round without 3 sites (min_peers), each with 50 training rows or more (min_rows)",
        "Asked for by the proposer: its code says 20 rounds",
        "It imports numpy, torch.",
        "Refused by this site's policy: `policy.imports` does not name numpy",
        "none, updates tell of rows",
    ):
        assert fact in page, fact


def test_what_somebody_must_see_to_stands_first_with_its_command(tmp_path: Any) -> None:
    status = a_status(connected=("Kyoto",)) | {"asked": {"4": "Stroke"}}
    page = TestClient(Dashboard(Watch(tmp_path, Seen(status, ""))).app(), backend="trio").get("/")
    assert "not connected: Oslo" in page.text
    assert "<code>swarm plan show 4</code>" in page.text
    assert "swarm node status &#39;/srv/my node&#39; --connected" in page.text


def test_what_left_is_added_up_by_member_and_kind(tmp_path: Any) -> None:
    with closing(OutgoingLog(tmp_path / OUTGOING)) as log:
        for size_bytes in (1000, 500):
            log.add("update", size_bytes, to="Kyoto", plan=3, of="Basel")

    watch = Watch(tmp_path, Seen(a_status(), ""))
    page = TestClient(Dashboard(watch).app(), backend="trio").get("/left").text
    assert "<td>3</td><td>update</td><td>Basel</td><td>Kyoto</td><td>2</td><td>1.5 kB</td>" in page
    assert "<code>swarm node outgoing &#39;/srv/my node&#39;</code>" in page


def test_names_of_others_are_no_markup_and_hide_nothing(tmp_path: Any) -> None:
    name = "<script>alert(1)</script>\u202e"
    status = a_status(a_plan(name=name, waits_for=[name]))
    answer = TestClient(Dashboard(Watch(tmp_path, Seen(status, ""))).app(), backend="trio").get("/")
    assert "<script>alert" not in answer.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\u202e" in answer.text
