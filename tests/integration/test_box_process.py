"""A boxed process: it works inside, and ends with whatever ends it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
import trio
from msgspec import structs

from swarm.box import contents, process
from swarm.box.description import WALLS, Box, Limits, Report, Wall
from swarm.box.process import BoxedProcess
from swarm.errors import ConfigurationError, LocalError

DEADLINE_S = 120


def box(folder: Path, program: str, **settings: object) -> Box:
    """A box that runs a Python program, with its output in `folder/log`."""
    inside = folder / "inside"
    inside.mkdir(exist_ok=True)
    (inside / "program.py").write_text(textwrap.dedent(program))
    values: dict[str, object] = {
        "command": (sys.executable, str(inside / "program.py")),
        "folder": str(inside),
        "readable": contents.libraries(),
        "environment": contents.environment(inside),
        "log": str(folder / "log"),
        **settings,
    }
    return Box(**values)  # type: ignore[arg-type]


def run(described: Box, use: Callable[[BoxedProcess], Awaitable[None]] | None = None) -> int:
    """Run a box to its end. Returns its exit status."""

    async def main() -> int:
        with trio.fail_after(DEADLINE_S):
            started = await process.start(described)
            try:
                if use is not None:
                    await use(started)
                await started.wait()
            finally:
                await started.end()
            assert started.exit_status is not None
            return started.exit_status

    return trio.run(main)


def output(folder: Path) -> str:
    return (folder / "log").read_text()


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(what: Callable[[], object], words: str) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline, words
        time.sleep(0.02)


def test_a_program_has_its_folder_its_libraries_and_a_loopback_and_ends_as_it_ended(
    tmp_path: Path,
) -> None:
    described = box(
        tmp_path,
        """
        import getpass, os, socket, sys, tempfile
        listener = socket.create_server(("localhost", 0))
        socket.create_connection(listener.getsockname()).close()
        open("kept", "w").write(getpass.getuser())
        tempfile.NamedTemporaryFile().close()
        print(os.getcwd(), sorted(os.environ))
        sys.exit(7)
        """,
    )
    assert run(described) == 7
    assert (tmp_path / "inside" / "kept").read_text() == "plan"
    assert output(tmp_path).startswith(str(tmp_path / "inside"))
    assert run(box(tmp_path, "import os; os.kill(os.getpid(), 9)")) == -signal.SIGKILL
    assert run(box(tmp_path, "import os; os.abort()")) == -signal.SIGABRT


def test_what_leads_through_links_is_found_where_it_was_named(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "rows.csv").write_text("1,2")
    (tmp_path / "disk" / "others.csv").write_text("3,4")
    (tmp_path / "data").symlink_to("disk")
    named = tmp_path / "data" / "rows.csv"
    described = box(
        tmp_path,
        f"""
        import os, pathlib
        named = pathlib.Path({str(named)!r})
        print(named.read_text(), (named.parent / "others.csv").exists())
        """,
        readable=(*contents.libraries(), str(named), str(tmp_path / "nowhere")),
    )
    assert run(described) == 0, output(tmp_path)
    assert output(tmp_path) == "1,2 False\n"


def test_two_processes_train_together_with_gloo(tmp_path: Path) -> None:
    described = box(
        tmp_path,
        """
        import os, sys, torch, torch.distributed as together
        import torch.multiprocessing as processes

        def work(rank, port):
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            together.init_process_group("gloo", rank=rank, world_size=2)
            value = torch.tensor([rank + 1.0])
            together.all_reduce(value)
            assert value.item() == 3.0
            together.destroy_process_group()

        if __name__ == "__main__":
            processes.spawn(work, (29511,), nprocs=2)
            print("together")
        """,
    )
    assert run(described) == 0, output(tmp_path)
    assert output(tmp_path).endswith("together\n")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_load_data(tmp_path: Path, method: str) -> None:
    described = box(
        tmp_path,
        f"""
        import torch
        from torch.utils.data import DataLoader, TensorDataset

        if __name__ == "__main__":
            rows = TensorDataset(torch.arange(100.0))
            loader = DataLoader(rows, 10, num_workers=2, multiprocessing_context="{method}")
            print(sum(batch.sum().item() for (batch,) in loader))
        """,
    )
    assert run(described) == 0, output(tmp_path)
    # Python 3.11's tracker of semaphores, of "spawn", may warn after it: its own race, at the end.
    assert "4950.0" in output(tmp_path).splitlines()


@pytest.mark.parametrize("without", [(), ("user", "pid", "net", "ipc", "mount"), WALLS])
def test_all_that_a_program_started_ends_with_it(tmp_path: Path, without: tuple[Wall, ...]) -> None:
    marker = f"swarm-test-{os.getpid()}-{len(without)}"
    leaving = f"""
        import subprocess, sys, time
        wait = "import time; time.sleep(60)"
        child = [sys.executable, "-c", wait, "{marker}"]
        for new_session in (False, True):
            subprocess.Popen(child, start_new_session=new_session)
        time.sleep({{}})
        """

    def living() -> list[str]:
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                if marker.encode() in entry.read_bytes():
                    found.append(entry.parent.name)
            except OSError:
                continue
        return found

    assert run(box(tmp_path, leaving.format(1), without=without)) == 0
    assert living() == []

    async def kill(started: BoxedProcess) -> None:
        wait_for(lambda: len(living()) == 2, "the children have not started")
        os.kill(started.pid, signal.SIGKILL)

    described = box(tmp_path, leaving.format(60), without=without)
    assert run(described, kill) == -signal.SIGKILL
    assert living() == []

    async def end(started: BoxedProcess) -> None:
        wait_for(lambda: len(living()) == 2, "the children have not started")
        await started.end()

    assert run(described, end) != 0
    assert living() == []


@pytest.mark.parametrize("without", [(), ("user", "pid", "net", "ipc", "mount")])
def test_a_box_ends_with_its_node(tmp_path: Path, without: tuple[Wall, ...]) -> None:
    described = box(tmp_path, "import time; time.sleep(60)", without=without)
    (tmp_path / "box").write_bytes(msgspec.msgpack.encode(described))
    node = textwrap.dedent(f"""
        import os, signal, trio, msgspec
        from pathlib import Path
        from swarm.box import process
        from swarm.box.description import Box
        async def main():
            told = Path({str(tmp_path / "box")!r}).read_bytes()
            started = await process.start(msgspec.msgpack.decode(told, type=Box))
            print(started.pid, flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        trio.run(main)
        """)
    done = subprocess.run([sys.executable, "-c", node], capture_output=True, timeout=60)
    assert done.returncode == -signal.SIGKILL, done.stderr
    wait_for(lambda: not lives(int(done.stdout)), "the boxed process outlived its node")


def test_what_is_printed_is_kept_up_to_a_bound(tmp_path: Path) -> None:
    noisy = "for i in range(20000): print(f'line {i:>94}')"  # 2 MB
    assert run(box(tmp_path, noisy, limits=Limits(log_bytes=300_000))) == 0
    sizes = [(tmp_path / name).stat().st_size for name in ("log", "log.1")]
    assert sum(sizes) < 2 * (300_000 + 2**16)
    assert output(tmp_path).splitlines()[-1].split() == ["line", "19999"]


def test_a_box_that_fills_the_disk_is_ended_and_emptied(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    free = disk.f_bavail * disk.f_frsize
    filling = """
        import os, time
        with open("large", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, 4 * 2**30)
        time.sleep(60)
        """
    described = box(tmp_path, filling, limits=Limits(free_disk_bytes=free - 2 * 2**30))
    assert run(described) == -signal.SIGKILL
    assert list((tmp_path / "inside").iterdir()) == []
    assert "bytes were left on the disk" in output(tmp_path)


def test_a_box_that_cannot_be_built_or_executed_says_so(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=r"could not be built: see .*log"):
        run(structs.replace(box(tmp_path, ""), folder=str(tmp_path / "nowhere")))
    assert "nowhere" in output(tmp_path)
    assert run(box(tmp_path, "", command=("/usr/bin/nothing",))) == 127
    assert "/usr/bin/nothing cannot be started" in output(tmp_path)


def test_a_file_is_handed_over_for_reading_only(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.write_text("a model")
    (tmp_path / "link").symlink_to(base)

    async def use(started: BoxedProcess) -> None:
        handed = started.open(tmp_path / "link")
        assert os.read(handed, 100) == b"a model"
        with pytest.raises(OSError, match="Read-only file system"):
            os.open(f"/proc/self/fd/{handed}", os.O_RDWR)
        os.close(handed)
        with pytest.raises(LocalError, match=r"cannot read .*nothing: No such file"):
            started.open(tmp_path / "nothing")

    assert run(box(tmp_path, ""), use) == 0


def test_a_trial_tells_the_walls_and_a_required_box_refuses_to_be_none() -> None:
    report = trio.run(process.try_out, "required")
    assert report.is_closed
    assert "plan code is boxed by" in report.in_words()
    assert report.pid is None
    none = trio.run(process.try_out, "off")
    assert none.stand == {}
    assert len(none.gaps) == 5
    with pytest.raises(ConfigurationError, match='is "required", but plan code is not boxed'):
        process.check(none, "required")


def test_a_box_of_landlock_and_seccomp_is_closed_and_one_of_less_says_what_is_open() -> None:
    assert Report(stand={"landlock": "6", "seccomp": ""}).gaps == ()
    assert Report(stand={"landlock": "5", "seccomp": ""}).gaps == (
        "the user's other processes, by signals",
    )
    namespaces: dict[Wall, str] = dict.fromkeys(("user", "mount", "pid", "net"), "")
    assert Report(stand=namespaces).is_closed
    without_net = Report(stand={"user": "", "mount": "", "pid": ""})
    assert without_net.gaps == ("the network",)


def test_a_folder_that_holds_the_node_is_not_given_to_plans(tmp_path: Path) -> None:
    node = tmp_path / "node"
    node.mkdir()
    (tmp_path / "data").symlink_to(tmp_path)
    contents.check_apart([node / "patients.csv"], [node])
    for data in (node, tmp_path, tmp_path / "data", node / ".." / "node"):
        with pytest.raises(ConfigurationError, match="a folder of its own"):
            contents.check_apart([data], [node])
    assert "SWARM_PASSWORD" not in contents.environment(tmp_path)


def test_the_launcher_s_own_environment_and_arguments_tell_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARM_PASSWORD", "secret")
    told = "import json, os, pathlib\n" + textwrap.dedent("""
        first = pathlib.Path("/proc/1/cmdline").read_bytes().split(b"\\0")
        print(json.dumps([len(first), "SWARM_PASSWORD" in os.environ]))
        """)

    async def look(started: BoxedProcess) -> None:
        own = await trio.Path(f"/proc/{started._launcher.pid}/environ").read_bytes()
        assert b"PYTHONPATH" in own
        assert f"{tmp_path / 'inside'}".encode() not in own  # it runs no module from there
        assert b"secret" not in own

    assert run(box(tmp_path, told), look) == 0
    assert json.loads(output(tmp_path)) == [6, False]
