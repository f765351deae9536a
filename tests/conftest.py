"""What tests of several kinds need."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Processes that tests start import the development package as the tests do.
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")])
)

REAL_TIME = {
    "tests/e2e/test_e2e_pl": "tests/integration/",  # so that both take about as long
    "tests/integration/": "tests/integration/",
    "tests/e2e/": "tests/e2e/",
}
"""Tests with real processes, sockets and clocks: two at a time and no more, so each of these paths
has its scope, whose tests run one after the other."""


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Tests of one file stay together, in order; those that take real time by REAL_TIME."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return next((s for path, s in REAL_TIME.items() if file.startswith(path)), file)

    return ByFile(config, log)


CONTRACTS = Path(__file__).parents[1] / "contracts"


@pytest.fixture(scope="session")
def anvil_binary() -> Path:
    """A real foreign chain, installed by npm where it is not there yet. Fails without Node.js."""
    binary = CONTRACTS / "node_modules" / ".bin" / "anvil"
    if not binary.exists():
        # Not `npm ci`: it wants the binaries of all platforms in the lock, where one is enough.
        command = ["npm", "install", "--no-save", "--no-audit", "--no-fund"]
        command += ["--prefix", str(CONTRACTS)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
        except (OSError, subprocess.SubprocessError) as error:
            pytest.fail(
                "some tests need anvil, a real foreign chain, which could not be installed: "
                f"`{' '.join(command)}` failed ({error}). It needs Node.js and npm."
            )
    return binary


@pytest.fixture(scope="module")
def anvil_url(anvil_binary: Path) -> Iterator[str]:
    process = subprocess.Popen(
        [str(anvil_binary), "--port", "0", "--host", "127.0.0.1"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.match(r"Listening on (\S+)", line):
                break
        else:
            pytest.fail("anvil ended before it listened")
        drain = threading.Thread(target=process.stdout.read, daemon=True)
        drain.start()
        yield f"http://{found[1]}"
    finally:
        process.terminate()
        process.wait(10)
