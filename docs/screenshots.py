"""Take the pictures of the dashboard in docs/images: `python docs/screenshots.py` (about a minute).

A testnet of examples/heart runs meanwhile. Needs Chromium with its driver (Debian:
chromium-driver).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By

IMAGES = Path(__file__).parent / "images"
EXAMPLE = Path(__file__).parents[1] / "examples" / "heart"
PAGES = {"now": "/", "results": "/results"}
WIDTH, HEIGHT = 1100, 620
ROUNDS = 60  # enough for a picture of a run that goes on
READY_S = 120.0


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="swarm-screenshots-") as folder:
        testnet = Path(folder) / "testnet"
        swarm("testnet", "up", EXAMPLE, "--rounds", ROUNDS, "--dir", testnet)
        try:
            command = [sys.executable, "-m", "swarm", "dashboard", str(testnet / "cleveland")]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                try:
                    take(process.stdout.readline().strip())
                finally:
                    process.terminate()
        finally:
            swarm("testnet", "down", "--dir", testnet)


def take(link: str) -> None:
    options = ChromeOptions()
    for option in ("--headless=new", "--no-sandbox", f"--window-size={WIDTH},{HEIGHT}"):
        options.add_argument(option)
    browser = Chrome(options=options, service=ChromeService(shutil.which("chromedriver")))
    try:
        browser.get(link)
        place = browser.current_url.rstrip("/")
        deadline = time.monotonic() + READY_S
        while "Round 1" not in browser.find_element(By.ID, "body").text:  # 10 to 19
            if time.monotonic() > deadline:
                raise SystemExit("the run did not come to its tenth round in time")
            time.sleep(0.1)
        for name, path in PAGES.items():
            browser.get(place + path)
            time.sleep(1)  # the first event
            browser.save_screenshot(str(IMAGES / f"dashboard-{name}.png"))
            print(IMAGES / f"dashboard-{name}.png")
    finally:
        browser.quit()


def swarm(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "swarm", *map(str, arguments)], check=True)


if __name__ == "__main__":
    main()
