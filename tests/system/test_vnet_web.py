"""The page of ``vnet web`` in a real browser, while a ping runs: what it shows, and its buttons by keyboard alone."""

from __future__ import annotations

import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from support.cli import PATIENCE, Up
from support.machine import RequireTool
from support.paths import VNET

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1280,1500",
)  # fmt: skip
TABS = 20
"""Presses of the tab key that lead from the beginning of the page at least to its first button."""
pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("privileged", "no_leaks")]


@pytest.fixture
def page(up: Up) -> Iterator[str]:
    """The address of the page of a system that pings."""
    with (
        subprocess.Popen(
            [VNET, "exec", "--name", up.name, "rc", "--", "ping", "-q", "-i", "0.05", "198.18.0.2"],
            stdout=subprocess.DEVNULL,
        ) as ping,
        subprocess.Popen(
            [VNET, "web", "--name", up.name, "--listen", "127.0.0.1:0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as web,
    ):
        try:
            assert web.stdout is not None
            line = web.stdout.readline()
            match = re.fullmatch(rf"(http://127\.0\.0\.1:\d+/) shows {up.name}\. Ctrl-C ends it\.\n", line)
            assert match is not None, line
            yield match[1]
        finally:
            ping.terminate()
            web.send_signal(signal.SIGINT)
            said = web.communicate(timeout=PATIENCE)
    assert (said, web.returncode) == (("", ""), 0)


@pytest.fixture
def browser(require_tool: RequireTool, tmp_path: Path) -> Iterator[webdriver.Chrome]:
    require_tool("chromium", "chromedriver")
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'browser'}"):
        options.add_argument(flag)
    options.binary_location = "/usr/bin/chromium"
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    try:
        yield driver
    finally:
        driver.quit()


def text(browser: webdriver.Chrome, place: str) -> str:
    """The text below an element, also that of pictures."""
    return str(browser.execute_script("return document.querySelector(arguments[0])?.textContent ?? ''", place))


def wait(browser: webdriver.Chrome, condition: Callable[[], object]) -> None:
    WebDriverWait(browser, PATIENCE).until(lambda _: condition())


def press(browser: webdriver.Chrome, *keys: str) -> None:
    browser.switch_to.active_element.send_keys(*keys)


def test_the_page_shows_a_running_system_and_is_used_by_keyboard(browser: webdriver.Chrome, page: str) -> None:
    browser.get(page)
    wait(browser, lambda: text(browser, "#state") == "running; everything is up")

    # The topology, the rings, the rates and the PCI functions are there.
    wait(browser, lambda: "net0 net driver" in text(browser, "#topology svg"))
    wait(browser, lambda: "net0 transmitq1" in text(browser, "#tables svg"))
    wait(browser, lambda: ", net0 on pcie0" in text(browser, "#functions summary"))
    wait(browser, lambda: "driver transmitq1" in text(browser, "#charts"))
    assert browser.find_elements(By.CSS_SELECTOR, "#wheels [data-key=receiveq1] svg path, #wheels svg circle")

    # The ring moves: it is read from memory again and again.
    before = text(browser, "#wheels [data-key=transmitq1] svg")
    wait(browser, lambda: text(browser, "#wheels [data-key=transmitq1] svg") != before)

    # By keyboard alone: the tab key leads to the button of the link, space takes it down.
    for _ in range(TABS):
        press(browser, Keys.TAB)
        if browser.switch_to.active_element.get_attribute("data-key") == "pcie0":
            break
    press(browser, Keys.SPACE)
    wait(browser, lambda: "down: pcie0, net0" in text(browser, "#state"))
    assert text(browser, "#outcome") == "pcie0 is down"
    wait(browser, lambda: "pcie0, down" in text(browser, "#topology svg"))
    wait(browser, lambda: "VNET_LINK_DOWN  link=pcie0" in text(browser, "#log"))
    assert browser.switch_to.active_element.text == "pcie0 is down: bring it up"
    press(browser, Keys.ENTER)
    wait(browser, lambda: text(browser, "#state") == "running; everything is up")

    # The filter keeps the events whose text has all its words.
    browser.find_element(By.ID, "filter").send_keys("link_down PCIE0")
    rows = browser.find_elements(By.CSS_SELECTOR, "#log li")
    assert rows
    assert all("VNET_LINK_DOWN" in row.text for row in rows)

    # An action that the system refuses says why.
    browser.find_element(By.CSS_SELECTOR, "#devices input").send_keys("moon", Keys.ENTER)
    wait(browser, lambda: text(browser, "#outcome") == "net0: mac 'moon': must be a unicast MAC address")

    # Nothing came from elsewhere, and the browser has no complaint about the page.
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map((each) => each.name)")
    assert loaded
    assert all(name.startswith(page) for name in loaded)
    log: list[dict[str, str]] = browser.get_log("browser")  # type: ignore[no-untyped-call]
    complaints = [each["message"] for each in log if page in each["message"]]
    assert [each for each in complaints if "status of 400" not in each] == []


def test_a_page_that_outlives_its_system_says_so(browser: webdriver.Chrome, page: str, up: Up) -> None:
    browser.get(page)
    wait(browser, lambda: text(browser, "#state") == "running; everything is up")
    assert up.end(signal.SIGINT) == 0
    wait(browser, lambda: text(browser, "#state") == f"{up.name} is not running; try: vnet up --name {up.name}")
