"""A plan that tries to get out of its box: what it gets, from each place, with each wall missing.

What a way out gets without any wall, as an ordinary user, is tried first: it shows that the ways
lead somewhere. The table below then says which walls close each of them, and holds exactly: a way
that is open though its walls stand fails, and so does one that is closed though they do not.

`pytest -s` prints what each way got.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from typing import Any

import pytest

from swarm.box.description import WALLS

DEADLINE_S = 120
IS_ROOT = os.getuid() == 0
HERE = "root" if IS_ROOT else "user"

Found = dict[str, Any]

FILES = ({"mount"}, {"landlock"})
OTHERS = (*FILES, {"user"})
NETWORK = ({"net"}, {"seccomp"})
KERNEL = ({"seccomp"},)
CLOSED_BY: dict[str, tuple[set[str], ...]] = {
    "environment of the node": (*OTHERS, {"root", "capabilities"}),
    "environment of any process": (*OTHERS, {"root", "capabilities"}),
    "list of processes": FILES,
    "key": FILES,
    "password": FILES,
    "other plan": FILES,
    "other workspace": FILES,
    "blob store": FILES,
    "shared memory": FILES,
    "kernel keyring": KERNEL,
    "symbolic link": FILES,
    "hard link": FILES,
    "writing through a handed file": FILES,
    "mode of a handed file": ({"mount"},),
    "pickle that runs a shell": FILES,
    "native extension": FILES,
    "tracing the node": ({"seccomp"}, {"landlock"}, {"user"}, {"pid"}),
    "memory of the node": ({"seccomp"}, {"landlock"}, {"user"}, {"pid"}),
    "memory file of the node": (*OTHERS, {"root", "capabilities"}),
    "signal to the node": ({"pid"}, {"landlock"}),
    "port of the node": NETWORK,
    "control socket": ({"mount"}, {"seccomp"}),
    "abstract socket": ({"net"}, {"landlock"}, {"seccomp"}),
    "datagram without connecting": ({"mount"}, {"seccomp"}),
    "route to the world": NETWORK,
    "name service": NETWORK,
    "socket to the hypervisor": KERNEL,
    "new user namespace": KERNEL,
    "io uring": KERNEL,
    "capabilities": KERNEL,  # of a new user namespace
    "processes without end": ({"processes"},),
    "scratch without end": FILES,
}
"""Each set of walls is enough by itself. What is not here is closed without any."""

CERTAINLY_OPEN = {
    *("environment of the node", "list of processes", "key", "password", "other plan"),
    *("other workspace", "blob store", "shared memory", "symbolic link", "hard link"),
    *("writing through a handed file", "mode of a handed file", "pickle that runs a shell"),
    *("native extension", "memory of the node", "memory file of the node", "tracing the node"),
    *("signal to the node", "port of the node", "control socket", "abstract socket"),
    *("datagram without connecting", "name service", "processes without end"),
    "scratch without end",
}
"""Without walls, on any Linux; the rest depends on the machine."""


def run(place: str, *without: str) -> Found:
    with tempfile.TemporaryDirectory(prefix="box-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o777)
        done = subprocess.run(
            [sys.executable, "-m", "harness.box.places", f"{folder}/try", place, *without],
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )
    assert done.returncode == 0, done.stderr
    found: Found = json.loads(done.stdout)
    print(f"\nin the place {place!r} without {', '.join(without) or 'nothing'}: {found['report']}")
    for way, (was_open, what) in found["ways"].items():
        print(f"  {'OPEN  ' if was_open else 'closed'}  {way}: {what}")
    return found


def opened(found: Found) -> set[str]:
    return {way for way, (was_open, _) in found["ways"].items() if was_open}


@pytest.fixture(scope="module")
def unboxed() -> set[str]:
    """What is open to an ordinary user's plan without walls."""
    return opened(run("user" if IS_ROOT else "here", *WALLS))


def test_without_walls_a_plan_gets_the_key_the_password_and_the_rest(unboxed: set[str]) -> None:
    assert unboxed >= CERTAINLY_OPEN
    assert len(unboxed) >= 20
    assert unboxed <= CLOSED_BY.keys()


@pytest.mark.parametrize("place", ["root", "user"] if IS_ROOT else ["here"])
def test_a_box_leaves_no_way_out(place: str) -> None:
    found = run(place)
    assert found["report"]["missing"] == {}
    assert opened(found) == set()
    assert len(found["ways"]) >= 40
    assert found["base"] == "a model"
    assert found["base_mode"] == "0o644"


@pytest.mark.skipif(not IS_ROOT, reason="needs root, to become a container of root's")
def test_in_a_container_without_capabilities_landlock_and_seccomp_hold() -> None:
    found = run("container")
    assert set(found["report"]["stand"]) == {"capabilities", "landlock", "seccomp"}
    # The price: what its user may change in a file, but for the contents; and root is not counted.
    assert opened(found) == {"mode of a handed file", "processes without end"}
    assert found["base"] == "a model"


@pytest.mark.parametrize("wall", WALLS)
def test_with_one_wall_missing_the_others_close_what_they_can(unboxed: set[str], wall: str) -> None:
    found = run(HERE if IS_ROOT else "here", wall)
    assert found["report"]["missing"][wall] == "left out"
    stand = {*found["report"]["stand"], HERE}
    expected = {way for way in unboxed if not any(walls <= stand for walls in CLOSED_BY[way])}
    assert opened(found) == expected


@pytest.mark.parametrize(
    "walls", [("landlock", "capabilities"), ("seccomp", "capabilities"), ("mount",), ("user",)]
)
def test_each_wall_closes_its_ways_alone(unboxed: set[str], walls: tuple[str, ...]) -> None:
    kept = {*walls, "user"} if "mount" in walls else set(walls)
    found = run("user" if IS_ROOT else "here", *(w for w in WALLS if w not in kept))
    assert found["report"]["stand"].keys() == kept
    expected = {way for way in unboxed if not any(walls <= kept for walls in CLOSED_BY[way])}
    assert opened(found) == expected
