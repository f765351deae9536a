"""One testnet in the background: killed trainers, members that come and go, an orderly end.

An undisturbed run of the same plan gives the digest that the disturbed one must reach as well.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import safetensors.numpy
from harness.webhook import receive

from swarm import connect
from swarm.learning.models.model_folder import read_folder
from swarm.node.commands.control import ask
from swarm.node.home.keys import load_key, read_password

SITES = ("site0", "site1", "site2")


@pytest.fixture(scope="module")
def undisturbed(
    swarm: Any, slow_plan: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Any], Path]:
    """The report of `swarm testnet run`, and the folder of everything that it wrote."""
    folder = tmp_path_factory.mktemp("run")
    options = ("--keep", folder / "nodes", "--out", folder / "out", "--json", folder / "r.json")
    shown = swarm("testnet", "run", slow_plan, *options).stdout
    assert "Next:" in shown
    return json.loads((folder / "r.json").read_text()), folder


@pytest.fixture(scope="module")
def testnet(
    swarm: Any, slow_plan: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("up") / "slow-nodes" / "testnet"
    swarm("testnet", "up", slow_plan, "--dir", directory)
    yield directory
    swarm("testnet", "down", "--dir", directory)


def plan_at(home: Path) -> dict[str, Any]:
    found: list[dict[str, Any]] = ask(home, "status")["plans"]
    return found[0] if found and "status" in found[0] else {}


# The undisturbed run.


def test_a_report_holds_what_programs_need(undisturbed: tuple[dict[str, Any], Path]) -> None:
    report, folder = undisturbed
    assert report["plan"] == "Tiny"
    assert [site["name"] for site in report["sites"]] == list(SITES)
    for site in report["sites"]:
        assert site["account"].startswith("0x")
        assert site["peer_id"].startswith("16U")
        assert site["samples"]["train"] == 30
        assert set(site["local"]) == set(site["swarm"]) == {"auc"}
    assert set(report["pooled"]) == {"auc"}
    assert {"plan_digest", "chain_id", "contract", "seed", "wall_s"} <= set(report)
    assert [(r["round"], r["number"], r["title"]) for r in report["rounds"]] == [
        (1, None, "statistics"),
        (2, 1, "round 1"),
        (3, 2, "round 2"),
        (4, 3, "round 3"),
    ]
    for record in report["rounds"]:
        assert record["leader"] in SITES
        assert record["contributors"] == list(SITES)
        assert record["omitted"] == {}
        for key in ("train_s", "exchange_s", "merge_s", "chain_s", "total_s"):
            assert record[key] >= 0
        assert record["bytes_sent"] > 0
        assert record["bytes_received"] > 0
    assert all(r["metrics"] == {} for r in report["rounds"])  # without validation rows
    assert 0 <= report["swarm"]["auc"] <= 1
    assert report["test_looks"] == len(SITES) + 2
    assert report["references"] == {"alone": {}, "pooled": {}}
    assert report["notes"] == []
    assert report["final_model"]["digest"] == report["rounds"][-1]["model"]
    model = safetensors.numpy.load_file(report["final_model"]["path"])
    assert model["0.weight"].shape == (4, 2)
    assert (folder / "out" / "metric.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_leaves_no_process_and_no_traceback(
    undisturbed: tuple[dict[str, Any], Path],
    processes_of: Callable[[Path], list[psutil.Process]],
) -> None:
    _, folder = undisturbed
    assert processes_of(folder) == []
    for site in SITES:
        log = (folder / "nodes" / site / "node.log").read_text()
        assert "SIGTERM: ending" in log
        assert "Traceback" not in log


def test_no_key_is_in_anything_that_a_run_writes(
    undisturbed: tuple[dict[str, Any], Path],
) -> None:
    _, folder = undisturbed
    written = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert len(written) > 20
    for site in SITES:
        home = folder / "nodes" / site
        for name in ("key.json", "password"):
            assert stat.S_IMODE((home / name).stat().st_mode) == 0o600
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        password = read_password(home / "password")
        secret = load_key(home / "key.json", password)
        shapes = [secret, secret.hex().encode(), secret.hex().upper().encode()]
        shapes += [base64.b64encode(secret).rstrip(b"="), base64.urlsafe_b64encode(secret)[:-1]]
        for path, content in written.items():
            assert not any(shape in content for shape in shapes), f"a key is in {path}"
            if path != home / "password":
                assert password.encode() not in content, f"a password is in {path}"


# The disturbed one. These tests stand in order: each leaves the testnet as the next expects it.


def test_a_killed_trainer_costs_a_retry_and_not_the_run(
    testnet: Path,
    undisturbed: tuple[dict[str, Any], Path],
    wait_until: Callable[..., None],
) -> None:
    home = testnet / "site1"

    def training() -> int | None:
        plan = plan_at(home)
        fraction = (plan.get("training") or {}).get("fraction", 0)
        busy = plan.get("round", 0) in (2, 3) and 0.2 < fraction < 0.9
        return ask(home, "status")["trainer_pid"] if busy else None

    killed: list[int] = []

    def kill() -> bool:
        pid = training()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
        return bool(killed)

    wait_until("site1 trains", kill)
    wait_until("the plan is complete", lambda: plan_at(home).get("status") == "completed")
    wait_until("site1 holds the final model", lambda: plan_at(home)["model_held"])
    plan = plan_at(home)
    assert ask(home, "status")["trainer_pid"] not in (None, killed[0])
    assert plan["model"] == undisturbed[0]["final_model"]["digest"]
    for record in plan["records"]:
        assert record["attempt"] == 1
        assert record["contributors"] == list(SITES)


def test_status_names_every_node(testnet: Path, swarm: Any) -> None:
    nodes = json.loads(swarm("testnet", "status", "--dir", testnet, "--json").stdout)["nodes"]
    assert [node["name"] for node in nodes] == list(SITES)
    for node in nodes:
        assert node["alive"] is True
        assert psutil.pid_exists(node["pid"])
        assert psutil.pid_exists(node["trainer_pid"])
        assert node["dir"] == str(testnet / node["name"])
        assert node["round"] == 4
        assert node["height"] > node["round"]
        assert node["account"].startswith("0x")
        assert node["peer_id"] in node["p2p"][0]
        assert node["rpc_url"].startswith("http://127.0.0.1:")
    shown = swarm("testnet", "status", "--dir", testnet).stdout
    assert all(site in shown for site in SITES)
    assert "completed" in swarm("node", "status", testnet / "site0").stdout


def test_a_node_listens_on_loopback_only_and_stays_small(testnet: Path) -> None:
    for site in SITES:
        process = psutil.Process(ask(testnet / site, "status")["pid"])
        listening = [c for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
        assert len(listening) == 2
        assert {c.laddr.ip for c in listening} == {"127.0.0.1"}
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        anonymous_kb = next(int(x.split()[1]) for x in lines if x.startswith("RssAnon"))
        assert anonymous_kb < 300_000
        assert stat.S_IMODE((testnet / site / "control.sock").stat().st_mode) == 0o600


def test_every_question_has_an_answer(testnet: Path, swarm: Any, tmp_path: Path) -> None:
    node = ("--node", testnet / "site0")
    assert "site2" in swarm("contract", "info", *node).stdout
    assert "site2" in swarm("contract", "members", *node).stdout
    assert "class Tiny" in swarm("plan", "show", "1", *node).stdout
    assert "3 of 3" in swarm("plan", "list", *node).stdout
    models = json.loads(swarm("model", "list", *node, "--json").stdout)["models"]
    swarm("model", "export", *node, tmp_path / "model")
    exported = read_folder(tmp_path / "model")
    assert exported.card.model == models[-1]["digest"]
    assert {site.name for site in exported.card.sites} == {"site0", "site1", "site2"}
    kept = safetensors.numpy.load_file(models[-1]["path"])
    for name, tensor in safetensors.numpy.load_file(exported.model).items():
        assert tensor.tobytes() == kept[name].tobytes()
    frame = connect(testnet / "site0").rounds()
    assert list(frame["model"])[1:] == [m["digest"] for m in models]
    assert connect(testnet / "site0").picture().png.startswith(b"\x89PNG")
    assert "Everything agrees" in swarm("audit", testnet / "site0").stdout
    scores = json.loads(swarm("model", "evaluate", *node, "--json").stdout)["metrics"]
    assert 0 <= scores["test"]["auc"] <= 1


def test_whoever_is_invited_and_has_not_answered_is_named_until_it_declines(
    testnet: Path, swarm: Any, slow_plan: Path
) -> None:
    homes = {name: ("--node", testnet / name) for name in SITES}
    options = ("--rounds", 1, "--within", "2h", "--json")
    proposed = json.loads(swarm("plan", "propose", *homes["site0"], slow_plan, *options).stdout)
    number = proposed["id"]
    assert proposed["undecided"] == list(SITES)
    assert 7000 < proposed["until"] - time.time() <= 7200
    shown = swarm("plan", "decline", *homes["site1"], number).stdout
    assert f"declined plan {number}" in shown
    assert "waits for the answer of site0, site2, until " in shown
    again = swarm("plan", "decline", *homes["site1"], number, status=2)
    assert "declined already" in again.stderr
    assert (
        "every invited member has decided"
        in [swarm("plan", "decline", *homes[name], number).stdout for name in ("site0", "site2")][
            -1
        ]
    )
    swarm("plan", "stop", *homes["site0"], number)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("contract vote 99", "there is no proposal 99"),
        ("contract propose --remove Nobody", "there are: site0, site1, site2"),
        ("contract propose --admit {testnet}/site1/card.json", "belongs to a member already"),
        ("contract propose --admit {testnet}/testnet.json", "testnet.json"),
        ("plan show 7", "there is no plan 7"),
        ("plan consent 7", "there is no plan 7"),
        ("plan consent 1", "completed"),
        ("plan consent 1 --code {other}", "the digest"),
        ("plan withdraw 7", "there is no plan 7"),
        ("plan stop 1", "completed"),
        ("model list --plan 7", "takes no part in plan 7"),
        ("model export --round 7 x", "there are: 1, 2, 3"),
        ("model export {testnet}/none/x", "make it first"),
        ("plan propose {testnet}/site0/data", "plan.py"),
    ],
)
def test_nonsense_is_answered_in_one_sentence(
    testnet: Path, swarm: Any, tmp_path: Path, command: str, words: str
) -> None:
    other = tmp_path / "plan.py"
    other.write_text("import swarm\n")
    arguments = command.format(testnet=testnet, other=other).split()
    done = swarm(*arguments, "--node", testnet / "site0", status=2)
    assert words in done.stderr
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


def test_a_directory_holds_one_node_and_a_port_one_program(
    testnet: Path, swarm: Any, tmp_path: Path
) -> None:
    assert "already" in swarm("node", "start", testnet / "site0", status=2).stderr
    copy = tmp_path / "copy"
    copy.mkdir(mode=0o700)
    for name in ("key.json", "password", "network.json", "node.toml", "data"):
        source = testnet / "site0" / name
        (shutil.copytree if source.is_dir() else shutil.copy2)(source, copy / name)
    said = swarm("node", "start", copy, status=2).stderr
    assert "cannot listen on /ip4/127.0.0.1/tcp/" in said
    http = ask(testnet / "site0", "status")["rpc_url"].removeprefix("http://")
    config = (copy / "node.toml").read_text()
    config = config.replace('listen = "127.0.0.1:0"', f'listen = "{http}"')
    port = ask(testnet / "site0", "status")["p2p"][0].split("/")[4]
    (copy / "node.toml").write_text(config.replace(f"/tcp/{port}", "/tcp/0"))
    said = swarm("node", "start", copy, status=2).stderr
    assert f"cannot listen on {http}" in said
    assert not (copy / "running.json").exists()


def publish_and_pull(testnet: Path, home: Path, swarm: Any, folder: Path) -> None:
    """Two of three contributors sign, and the member of `home`, which did not train, pulls: first
    while a byte of the publisher's file is wrong, then as it was published."""
    publisher = testnet / "site0"
    refused = swarm("model", "publish", "--node", publisher, status=2).stderr
    assert "1 of 3 contributors have signed, and 2 must: site1: " in refused
    assert "nobody there has agreed to sign that model of plan 1 yet" in refused
    swarm("model", "sign", "--node", testnet / "site1")
    told = json.loads(swarm("model", "publish", "--node", publisher, "--json").stdout)
    assert told["signatures"] == 2
    found = swarm("model", "find", "--node", home).stdout
    assert "Tiny" in found
    assert told["digest"] in found

    blob = publisher / "blobs" / f"{told['whole'].removeprefix('0x')}.blob"
    held = blob.read_bytes()
    pull = ("model", "pull", told["digest"], folder, "--node", home)
    try:
        blob.write_bytes(held[:-1] + bytes([held[-1] ^ 1]))
        refused = swarm(*pull, status=1).stderr
    finally:
        blob.write_bytes(held)
    assert "model.safetensors did not come as it was published" in refused
    assert not folder.exists()
    assert f"{folder}: Tiny, round 3, digest {told['model']}" in swarm(*pull).stdout
    pulled = read_folder(folder)
    for name, tensor in safetensors.numpy.load_file(pulled.model).items():
        assert tensor.tobytes() == safetensors.numpy.load(held)[name].tobytes()
    assert {s.name for s in pulled.card.sites if s.contributed} == set(SITES)


def test_a_member_comes_pulls_a_model_that_it_did_not_train_and_goes_again(
    testnet: Path, swarm: Any, wait_until: Callable[..., None], tmp_path: Path
) -> None:
    home = tmp_path / "newcomer"
    ports = ("--listen", "/ip4/127.0.0.1/tcp/0", "--http", "127.0.0.1:0")
    swarm("init", home, "--name", "newcomer", "--unattended", *ports)
    shutil.copy(testnet / "site0" / "network.json", home)
    proposed = swarm("contract", "propose", "--admit", home / "card.json", "--node",
                     testnet / "site0").stdout  # fmt: skip
    assert "open, 1 for, 0 against, 2 needed" in proposed
    number = proposed.split()[1].rstrip(":")
    voted = swarm("contract", "vote", number, "--node", testnet / "site1").stdout
    assert "carried out" in voted
    with (home / "node.log").open("wb") as log:
        node = subprocess.Popen(
            [sys.executable, "-m", "swarm", "node", "start", str(home)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        wait_until("the newcomer answers", (home / "running.json").exists)
        height = ask(testnet / "site0", "status")["height"]
        wait_until("it has caught up", lambda: ask(home, "status")["height"] >= height)
        members = swarm("contract", "members", "--node", home).stdout
        assert "newcomer" in members
        assert "class Tiny" in swarm("plan", "show", "1", "--node", home).stdout
        assert "newcomer" in ask(testnet / "site0", "status")["connected"]
        publish_and_pull(testnet, home, swarm, tmp_path / "pulled")

        removal = swarm("contract", "propose", "--remove", "newcomer", "--node",
                        testnet / "site0").stdout.split()[1].rstrip(":")  # fmt: skip
        for site in SITES[1:]:
            if "carried out" in swarm(
                "contract", "vote", removal, "--node", testnet / site
            ).stdout:  # fmt: skip
                break
        wait_until(
            "its connections end",
            lambda: "newcomer" not in ask(testnet / "site0", "status")["connected"],
        )
        assert "newcomer" not in swarm("contract", "members", "--node", testnet / "site0").stdout
    finally:
        node.send_signal(signal.SIGINT)
        began = time.monotonic()
        assert node.wait(30) == 0
        assert time.monotonic() - began < 10
    assert "Traceback" not in (home / "node.log").read_text()


def test_a_member_leaves_on_its_own_word(testnet: Path, swarm: Any) -> None:
    swarm("contract", "leave", "--yes", "--node", testnet / "site2")
    assert "site2" not in swarm("contract", "members", "--node", testnet / "site0").stdout


def test_a_testnet_goes_down_in_order(
    testnet: Path,
    swarm: Any,
    processes_of: Callable[[Path], list[psutil.Process]],
    all_ended: Callable[[list[psutil.Process]], bool],
    wait_until: Callable[..., None],
) -> None:
    ask(testnet / "site0", "evaluate", plan=1, round=4)  # starts a trainer, if it has ended
    processes = processes_of(testnet)
    assert len(processes) > len(SITES)
    swarm("testnet", "down", "--dir", testnet)
    wait_until("all have ended", lambda: all_ended(processes), 10)
    nodes = json.loads(swarm("testnet", "status", "--dir", testnet, "--json").stdout)["nodes"]
    assert [node["alive"] for node in nodes] == [False] * 3
    for site in SITES:
        assert "Traceback" not in (testnet / site / "node.log").read_text()
        assert not (testnet / site / "running.json").exists()


def test_code_that_was_changed_after_the_consent_is_not_run_and_somebody_is_told(
    testnet: Path, swarm: Any, wait_until: Callable[..., None]
) -> None:
    home = testnet / "site0"
    (code,) = (home / "plans").glob("*/plan.py")
    code.write_text(code.read_text() + "\n# One innocent line more.\n")
    with (home / "changed.log").open("w") as log, receive() as (webhook, got):
        with (home / "node.toml").open("a") as config:
            config.write(f'\n[alerts]\nwebhook = "{webhook}"\n')
        command = [sys.executable, "-m", "swarm", "node", "start", str(home)]
        node = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log)
        try:
            wait_until("it is up", (home / "running.json").exists)
            wait_until("it has looked", lambda: ask(home, "status")["refused_plans"])
            said = ask(home, "status")["refused_plans"]["1"]
            assert said.startswith(f"the plan code in {code.parent} was changed")
            assert "delete the folder" in said
            wait_until("both alerts are posted", lambda: len(got) == 2, 30)
            assert {said["alert"] for _, said in got} == {"away: site1", "refused: 1"}
            assert all(said["node"] == "site0" and "swarm " in said["command"] for _, said in got)
            swarm("node", "try-alert", home)
            assert [said["alert"] for _, said in got[2:]] == ["trial"]
            assert node.poll() is None
        finally:
            node.terminate()
            assert node.wait(30) == 0
        assert "Traceback" not in (home / "changed.log").read_text()
