"""What a person sees who gives a command what it cannot use: one sentence, exit status 2."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest
import trio
from click.testing import CliRunner, Result
from harness.plans import write_tiny_plan

from swarm.cli import main
from swarm.errors import ContractError
from swarm.node.commands.refusals import in_words


def swarm(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.output
    return result


def fault(*arguments: object) -> str:
    """The one sentence that a command ends with, and nothing before it."""
    result = swarm(*arguments)
    assert result.exit_code == 2, result.output
    said = result.output.strip().splitlines()[-1]
    assert said.startswith("Error: ")
    return said


@pytest.mark.parametrize(
    "command",
    [
        "node status",
        "contract info",
        "contract members",
        "contract vote 1",
        "contract leave --yes",
        "contract propose --remove x",
        "plan list",
        "plan show 1",
        "plan consent 1",
        "plan withdraw 1",
        "plan stop 1",
        "model list",
        "model evaluate",
        "model export out",
    ],
)
def test_without_a_node_every_command_says_how_to_start_one(
    tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "swarm node start" in fault(*command.split())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "command", ["node status", "node start", "chain recover --yes", "contract info", "plan list"]
)
def test_the_node_that_a_terminal_is_about_is_named_once(
    tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SWARM_NODE", "mary")
    assert "mary" in fault(*command.split())


def test_a_node_that_was_killed_is_not_taken_for_running(tmp_path: Path) -> None:
    running = '{"pid": 4194999, "control": "/nowhere", "rpc_url": "", "p2p": []}'
    (tmp_path / "running.json").write_text(running)
    assert "no node runs in" in fault("node", "status", tmp_path)
    (tmp_path / "running.json").write_text(running.replace("4194999", str(os.getpid())))
    assert "no node runs in" in fault("node", "status", tmp_path)
    (tmp_path / "running.json").write_text("{")
    assert "running.json" in fault("node", "status", tmp_path)


def test_a_plan_without_data_or_with_too_few_sites_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = write_tiny_plan(tmp_path / "tiny", sites=2)
    assert "choose --peers between" in fault("testnet", "run", plan, "--peers", 5)
    (tmp_path / "bare").mkdir()
    assert "data" in fault("testnet", "run", tmp_path / "bare")
    assert "data" in fault("testnet", "up", tmp_path / "bare")
    assert "does not exist" in fault("testnet", "run", "nowhere")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bare", "tiny"]


def test_results_that_cannot_be_written_are_found_out_before_the_run(tmp_path: Path) -> None:
    plan = write_tiny_plan(tmp_path / "tiny", sites=2)
    report = plan / "plan.py" / "report.json"
    assert "cannot be written" in fault("testnet", "run", plan, "--json", report)
    assert "cannot be written" in fault("testnet", "run", plan, "--out", plan / "plan.py" / "x")


def test_no_testnet_is_said_with_what_to_do(tmp_path: Path) -> None:
    for command in ("status", "down"):
        assert "swarm testnet up" in fault("testnet", command, "--dir", tmp_path / "none")
    (tmp_path / "testnet.json").write_text('{"plan": 3}')
    assert "testnet.json" in fault("testnet", "status", "--dir", tmp_path)


def test_founding_refuses_what_is_no_set_of_cards(tmp_path: Path) -> None:
    card = tmp_path / "card.json"
    output = tmp_path / "network.json"
    found = ("network", "found", card, "--time", 1790000000, "--output", output)
    assert "No such file" in fault(*found)
    card.write_text("name = 3")
    assert "card.json" in fault(*found)
    swarm("init", tmp_path / "mary", "--name", "mary", "--unattended")
    card.write_bytes((tmp_path / "mary" / "card.json").read_bytes())
    assert "each founder needs its own" in fault(*found, card)
    assert not output.exists()
    assert swarm(*found).exit_code == 0
    assert fault("network", "found", card, "--time", 1790000000, "--output", tmp_path / "no" / "x")


def test_founding_in_the_future_is_refused_since_no_block_could_be_made(tmp_path: Path) -> None:
    home, output = tmp_path / "mary", tmp_path / "network.json"
    swarm("init", home, "--name", "mary", "--unattended")
    later = int(time.time()) + 3600
    found = ("network", "found", home / "card.json", "--output", output)
    assert "in the future" in fault(*found, "--time", later)
    assert not output.exists()
    assert swarm(*found, "--time", int(time.time())).exit_code == 0


def test_founding_replaces_another_consortiums_file_only_by_force(tmp_path: Path) -> None:
    home, output = tmp_path / "mary", tmp_path / "network.json"
    swarm("init", home, "--name", "mary", "--unattended")
    found = ("network", "found", home / "card.json", "--output", output, "--time")
    assert swarm(*found, 1790000000).exit_code == 0
    before = output.read_bytes()
    assert "--force" in fault(*found, 1790000001)
    assert output.read_bytes() == before
    assert swarm(*found, 1790000001, "--force").exit_code == 0
    assert output.read_bytes() != before


def test_an_address_that_no_node_can_dial_is_refused_where_it_is_first_given(
    tmp_path: Path,
) -> None:
    init = ("init", tmp_path / "mary", "--name", "mary", "--unattended", "--announce")
    assert "letters, digits, hyphens" in fault(*init, "/dns4/st_mary/tcp/4001")
    assert not (tmp_path / "mary").exists()
    assert swarm(*init, "/dns4/st-mary/tcp/4001").exit_code == 0
    card = tmp_path / "card.json"
    written = (tmp_path / "mary" / "card.json").read_text()
    card.write_text(written.replace("st-mary", "st_mary"))
    found = ("network", "found", card, "--time", 1790000000, "--output", tmp_path / "network.json")
    assert "card.json: `addresses`: '/dns4/st_mary/tcp/4001'" in fault(*found)


def test_exporting_replaces_a_model_only_by_force(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    export = ("model", "export", "--node", tmp_path, tmp_path / "model")
    assert "no model's folder" in fault(*export, "--force")
    (tmp_path / "model" / "card.json").write_text("the only copy")
    assert "--force" in fault(*export)
    assert "no node runs" in fault(*export, "--force")
    assert (tmp_path / "model" / "card.json").read_text() == "the only copy"
    assert "name it other" in fault(*export[:-1], tmp_path / "other.safetensors")


def test_a_health_check_names_the_members_to_whom_there_is_no_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = {
        "name": "mary", "height": 3, "rpc_url": "", "chain": {}, "plans": [],
        "members": ["basel", "mary", "turin"], "connected": ["turin"],
        "standbys": {"turin": False}, "former": ["kyoto"], "asked": {"4": "Tiny"},
        "sandbox": {"reach": []}, "refused_plans": {}, "notes": ["the clock is wrong"],
        "privacy": {"spent": 0.0, "epsilon": None, "delta": 1e-5},
        "peers": [
            {"name": "basel", "connected": False, "failed_dials": {"/ip4/1.2.3.4": "refused"},
             "notes": []},
            {"name": "turin", "connected": True, "failed_dials": {}, "notes": ["it is late"]},
        ],
    }  # fmt: skip
    monkeypatch.setattr("swarm.node.commands.control.ask", lambda *_: answer)
    shown = swarm("node", "status")
    assert shown.exit_code == 0
    assert "Attention: the clock is wrong" in shown.output
    assert "Not connected to basel (/ip4/1.2.3.4: refused)" in shown.output
    assert "turin: it is late" in shown.output
    assert "Standby of turin: not connected" in shown.output
    assert "No members any more: kyoto" in shown.output
    assert "plan 4 Tiny waits for this institution" in shown.output
    result = swarm("node", "status", "--connected")
    assert result.exit_code == 1
    assert "mary is not connected to basel (/ip4/1.2.3.4: refused): " in result.output
    for peer in answer["peers"]:
        peer["connected"] = True  # type: ignore[index]
    assert swarm("node", "status", "--connected").exit_code == 0


def test_with_nobody_at_a_terminal_nothing_is_asked(tmp_path: Path) -> None:
    assert "--unattended" in fault("init", tmp_path / "mary", "--name", "mary")
    assert "--yes" in fault("contract", "leave", "--node", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_node_without_a_network_is_told_where_one_comes_from(tmp_path: Path) -> None:
    assert swarm("init", tmp_path / "mary", "--name", "mary", "--unattended").exit_code == 0
    before = sorted(p.name for p in (tmp_path / "mary").iterdir())
    assert "swarm network found" in fault("node", "start", tmp_path / "mary")
    assert sorted(p.name for p in (tmp_path / "mary").iterdir()) == before


def test_a_wrong_password_starts_nothing(tmp_path: Path) -> None:
    home = tmp_path / "mary"
    swarm("init", home, "--name", "mary", "--unattended")
    swarm(
        "network", "found", home / "card.json", "--time", 1790000000,
        "--output", home / "network.json",
    )  # fmt: skip
    (home / "password").write_text("another password")
    before = sorted(p.name for p in home.iterdir())
    assert "the password does not open" in fault("node", "start", home)
    assert sorted(p.name for p in home.iterdir()) == before


def test_a_proposal_names_one_thing(tmp_path: Path) -> None:
    assert "--admit" in fault("contract", "propose", "--node", tmp_path)
    assert "--admit" in fault("contract", "propose", "--admit", "a", "--remove", "b")


def test_a_path_that_cannot_be_used_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert fault("init", tmp_path / "file" / "mary", "--name", "mary", "--unattended")
    assert fault("node", "start", tmp_path / "file" / "mary")


def test_a_refusal_of_the_contract_is_told_in_words() -> None:
    ended = in_words(ContractError("PlanEnded", {"status": 3}))
    assert str(ended).startswith("the plan has ended (completed)")
    assert "0x0a0b" in str(
        in_words(ContractError("PlanDigestMismatch", {"expected": b"\x0a\x0b", "given": b"\x01"}))
    )
    assert "RoundNoMajority" in str(in_words(ContractError("RoundNoMajority", {"round": 1})))
    # Fields that a later contract names otherwise must not hide the refusal.
    assert "PlanUnknown" in str(in_words(ContractError("PlanUnknown", {})))


def test_a_disk_that_fills_up_ends_a_node_with_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fill(*_: object) -> None:
        async with trio.open_nursery():
            raise OSError(errno.ENOSPC, "No space left on device", "blobs/ab.part")

    monkeypatch.setattr("swarm.node.node_process.run_node", fill)
    swarm("init", tmp_path / "mary", "--name", "mary", "--unattended")
    result = swarm("node", "start", tmp_path / "mary")
    said = "Error: blobs/ab.part: No space left on device; make room on that disk, and try again"
    assert result.output.splitlines()[-1] == said
    assert result.exit_code == 1


@pytest.mark.parametrize("name", ["key.json", "lock", "blobs", "control.sock", "running.json"])
def test_a_file_in_the_place_of_a_folder_or_the_reverse_is_named_with_what_to_do(
    tmp_path: Path, name: str
) -> None:
    home = tmp_path / "mary"
    swarm("init", home, "--name", "mary", "--unattended", "--listen", "/ip4/127.0.0.1/tcp/0",
          "--http", "127.0.0.1:0")  # fmt: skip
    swarm("network", "found", home / "card.json", "--time", 1790000000,
          "--output", home / "network.json")  # fmt: skip
    (home / name).unlink(missing_ok=True)
    if name == "blobs":
        (home / name).write_text("")
    else:
        (home / name).mkdir()
    said = fault("node", "start", home)
    assert f"mary/{name}: " in said
    assert "so move that f" in said


def test_ctrl_c_says_whether_the_node_may_still_do_it_and_how_to_undo_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("swarm.node.commands.control.ask", interrupt)
    undo = {
        "plan consent 3": "swarm plan withdraw 3",
        "plan decline 3": "swarm plan consent 3",
        "plan stop 3": "swarm plan continue",
        "contract propose --remove Basel": "swarm contract cancel",
        "contract vote 1": "nothing takes a vote back",
    }
    for command, words in undo.items():
        result = swarm(*command.split(), "--node", tmp_path)
        assert result.exit_code == 130
        assert "interrupted, but the node may still carry it out" in result.output
        assert words in result.output
    result = swarm("plan", "list", "--node", tmp_path)
    assert (result.exit_code, result.output) == (
        130, "\nError: interrupted: give the command again\n",
    )  # fmt: skip


def test_a_question_that_is_answered_with_no_ends_in_a_sentence(tmp_path: Path) -> None:
    swarm("init", tmp_path / "mary", "--name", "mary", "--unattended")
    home = tmp_path / "mary"
    swarm("network", "found", home / "card.json", "--time", 1790000000,
          "--output", home / "network.json")  # fmt: skip
    result = swarm("chain", "recover", home)  # nobody answers
    assert "\nError: nothing was done: " in result.output
    assert result.exit_code == 1


def test_a_password_comes_from_one_place(tmp_path: Path) -> None:
    both = ("--unattended", "--password-file", tmp_path / "secret")
    assert "not both" in fault("init", tmp_path / "mary", "--name", "mary", *both)
    assert not (tmp_path / "mary").exists()


def test_the_network_file_never_replaces_what_is_none(tmp_path: Path) -> None:
    home = tmp_path / "mary"
    swarm("init", home, "--name", "mary", "--unattended")
    card = (home / "card.json").read_bytes()
    found = ("network", "found", home / "card.json", "--time", 1790000000)
    said = fault(*found, "--output", home / "card.json", "--force")
    assert "card.json is no network file" in said
    assert "another --output" in said
    assert (home / "card.json").read_bytes() == card


def test_model_commands_are_about_the_newest_plan_of_this_node(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[str, object]] = []

    def answer(directory: Path, method: str, **arguments: object) -> object:
        asked.append((method, arguments.get("plan")))
        model = {"round": 4, "number": 3, "digest": "0x01", "bytes": 1}
        return {"plan": 11, "models": [model], "chosen": 4, "metrics": {}}

    monkeypatch.setattr("swarm.node.commands.control.ask", answer)
    assert swarm("model", "list").exit_code == 0
    assert swarm("model", "evaluate").exit_code == 0
    assert "plan 11, round 3" in swarm("model", "export", tmp_path / "model").output
    assert asked == [
        ("models", None), ("models", None), ("evaluate", 11), ("models", None), ("export", 11),
    ]  # fmt: skip
