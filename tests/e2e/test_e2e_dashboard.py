"""The dashboard in a real browser, over nodes that run, finish and are killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_core_python.selenium import Axe
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By

from swarm.dashboard.pages import PAGES
from swarm.node.commands.control import ask, read_running

PATHS = (*(page.path for page in PAGES), "/consent/1")
OFFLINE = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip

pytestmark = pytest.mark.skipif(
    shutil.which("chromedriver") is None,
    reason="needs Chromium with its driver (Debian: chromium-driver)",
)
Wait = Callable[..., None]


@pytest.fixture(scope="module")
def testnet(
    swarm: Any, slow_plan: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("dashboard") / "slow-nodes" / "testnet"
    swarm("testnet", "up", slow_plan, "--dir", directory)
    yield directory
    swarm("testnet", "down", "--dir", directory)


@pytest.fixture(scope="module")
def link(testnet: Path) -> Iterator[str]:
    command = [sys.executable, "-m", "swarm", "dashboard", str(testnet / "site0")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.send_signal(signal.SIGTERM)


@pytest.fixture(scope="module")
def browser(link: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    options = ChromeOptions()
    for option in (*OFFLINE, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(option)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=ChromeService(shutil.which("chromedriver")))
    try:
        driver.get(link)
        yield driver
    finally:
        driver.quit()


def place_of(link: str) -> str:
    return link[: link.index("/enter")]


def body(browser: Chrome) -> str:
    """What stands on the page, read at one moment: the page is kept fresh meanwhile."""
    return str(browser.execute_script("return document.getElementById('body').innerText"))


def test_every_page_is_whole_and_can_be_read_by_everyone(
    browser: Chrome, link: str, testnet: Path, wait_until: Wait
) -> None:
    wait_until("the plan runs", lambda: ask(testnet / "site0", "status")["plans"])
    for path in PATHS:
        browser.get(place_of(link) + path)
        heading = browser.execute_script("return document.querySelector('h1').innerText")
        assert heading not in ("", "Nothing to show"), path
        faults = Axe().run(browser)["violations"]
        assert [(fault["id"], fault["nodes"]) for fault in faults] == [], path
    assert browser.get_log("browser") == []


def test_nothing_is_asked_of_another_machine(browser: Chrome, link: str) -> None:
    asked = set()
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.add(message["params"]["request"]["url"])
    travelled = {url for url in asked if url.startswith(("http", "ws"))}
    assert len(travelled) > len(PATHS)
    assert {url for url in travelled if not url.startswith(place_of(link))} == set()


def test_results_say_what_the_audit_says(
    browser: Chrome, link: str, testnet: Path, swarm: Any, tmp_path: Path, wait_until: Wait
) -> None:
    def completed() -> bool:
        plans = ask(testnet / "site0", "status")["plans"]
        return bool(plans) and plans[0].get("status") == "completed"

    wait_until("the plan is complete", completed)
    browser.get(place_of(link) + "/results")
    swarm("audit", testnet / "site0", "--json", tmp_path / "audit.json")
    [plan] = json.loads((tmp_path / "audit.json").read_text())["history"]["plans"]
    rows = browser.find_elements(By.CSS_SELECTOR, ".tall tbody tr")
    shown = [[c.text for c in row.find_elements(By.CSS_SELECTOR, "th, td")][:3] for row in rows]
    assert len(shown) == len([r for r in plan["rounds"] if r["outcome"] == "final"])
    for (_, leader, contributors), told in zip(reversed(shown), plan["rounds"], strict=True):
        assert leader == told["leader"]
        assert set(contributors.split(", ")) == set(told["contributors"])
    assert browser.find_elements(By.CSS_SELECTOR, ".chart canvas")


def test_three_hundred_half_open_connections_and_a_slow_one_do_not_reach_the_node(
    link: str, testnet: Path
) -> None:
    host, port = place_of(link).removeprefix("http://").split(":")
    lines = [socket.create_connection((host, int(port))) for _ in range(300)]
    try:
        for line in lines[:50]:
            line.sendall(b"GET / HTTP/1.1\r\nHost: ")
        began = time.monotonic()
        assert ask(testnet / "site0", "status")["name"] == "site0"
        assert time.monotonic() - began < 5
    finally:
        for line in lines:
            line.close()


def test_a_killed_node_turns_red_within_five_seconds(
    browser: Chrome, link: str, testnet: Path
) -> None:
    browser.get(place_of(link) + "/members")
    assert "cannot be reached" not in body(browser)
    os.kill(read_running(testnet / "site2").pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while "cannot be reached" not in body(browser):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    red = "return document.querySelector('.state.bad').closest('tr').innerText"
    assert str(browser.execute_script(red)).startswith("site2")


def test_a_node_that_ends_is_said_to_be_silent_and_comes_back(
    browser: Chrome, link: str, testnet: Path, wait_until: Wait
) -> None:
    browser.get(place_of(link) + "/")
    os.kill(read_running(testnet / "site0").pid, signal.SIGKILL)
    wait_until("the page says so", lambda: "no node runs" in body(browser))
    assert "Tiny" in body(browser)  # what was last known stays
