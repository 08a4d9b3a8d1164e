"""The page of ``vnet web`` in a real browser, while a ping runs: what it shows, and its buttons by keyboard alone."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from support.cli import PATIENCE, READY, Up
from support.machine import RequireTool
from support.paths import TOPOLOGIES, VNET
from support.topologies import moved_to
from vnet.qmp.client import connect

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1280,1500",
)  # fmt: skip
TABS = 20
"""Presses of the tab key that lead from the beginning of the page at least to its first button."""
FLOOD = 4000
"""Moves of a link: more events than the buffers between the system and a client that does not read can have."""
pytestmark = [pytest.mark.timeout(600), pytest.mark.usefixtures("privileged", "no_leaks")]


@contextmanager
def served(name: str) -> Iterator[str]:
    """The address of the page of a running system, with its token."""
    with subprocess.Popen(
        [VNET, "web", "--name", name, "--listen", "127.0.0.1:0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as web:
        try:
            assert web.stdout is not None
            line = web.stdout.readline()
            match = re.fullmatch(rf"(http://127\.0\.0\.1:\d+/\?token=\w{{32}}) shows {name}\. Ctrl-C ends it\.\n", line)
            assert match is not None, line
            yield match[1]
        finally:
            web.send_signal(signal.SIGINT)
            printed = web.communicate(timeout=PATIENCE)
    assert (printed, web.returncode) == (("", ""), 0)


@pytest.fixture
def page(up: Up) -> Iterator[str]:
    """The address of the page of a system that pings."""
    command = [VNET, "exec", "--name", up.name, "rc", "--", "ping", "-q", "-i", "0.05", "198.18.0.2"]
    with served(up.name) as address, subprocess.Popen(command, stdout=subprocess.DEVNULL) as ping:
        try:
            yield address
        finally:
            ping.terminate()


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
    wait(browser, lambda: "; unwell: down: " in text(browser, "#devices"))
    wait(browser, lambda: "pcie0, down" in text(browser, "#topology svg"))
    wait(browser, lambda: "VNET_LINK_DOWN  link=pcie0" in text(browser, "#log"))
    assert browser.switch_to.active_element.text == "pcie0 is down: bring it up"
    press(browser, Keys.ENTER)
    wait(browser, lambda: text(browser, "#state") == "running; everything is up")

    # By keyboard alone: a rule of faults is set, does what it says while the ping runs, and is cleared.
    browser.find_element(By.ID, "fault-link").send_keys(Keys.TAB)
    press(browser, "timeouts", Keys.TAB)
    press(browser, "the", Keys.TAB)
    press(browser, Keys.BACKSPACE, "2", Keys.TAB)
    press(browser, "600", Keys.ENTER)
    wait(browser, lambda: text(browser, "#outcome") == "pcie0: timeouts is set")
    wait(browser, lambda: "VNET_FAULT_RULE_SET  link=pcie0  rule=timeouts" in text(browser, "#log"))
    wait(browser, lambda: "timeouts (hand): the next 2; spent, ends in" in text(browser, "#rules"))
    wait(browser, lambda: "2 faults in" in text(browser, "#rules"))
    for _ in range(TABS):
        press(browser, Keys.TAB)
        if browser.switch_to.active_element.text == "Clear timeouts of pcie0":
            break
    press(browser, Keys.SPACE)
    wait(browser, lambda: text(browser, "#outcome") == "pcie0: timeouts is cleared")
    wait(browser, lambda: text(browser, "#rules") == "")
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
    assert browser.current_url == page.partition("?")[0], "the address without the token"
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map((each) => each.name)")
    assert loaded
    assert all(name.startswith(browser.current_url) for name in loaded)
    log: list[dict[str, str]] = browser.get_log("browser")  # type: ignore[no-untyped-call]
    complaints = [each["message"] for each in log if browser.current_url in each["message"]]
    assert [each for each in complaints if "status of 400" not in each] == []


def test_a_page_that_outlives_its_system_says_so(browser: webdriver.Chrome, page: str, up: Up) -> None:
    browser.get(page)
    wait(browser, lambda: text(browser, "#state") == "running; everything is up")
    assert up.end(signal.SIGINT) == 0
    wait(browser, lambda: text(browser, "#state") == f"{up.name} is not running; try: vnet up --name {up.name}")


def test_a_client_that_does_not_read_loses_events_and_delays_no_other_client(
    name: str, started: list[Up], tmp_path: Path
) -> None:
    file = tmp_path / "blk.toml"
    file.write_text(moved_to(tmp_path, (TOPOLOGIES / file.name).read_text(encoding="utf-8")), encoding="utf-8")
    started.append(Up(name, str(file)))
    started[0].wait_for(READY)
    with served(name) as address, socket.socket() as slow, connect(name, PATIENCE) as control:
        host, token = address.removeprefix("http://").split("/?token=")
        access = f"Authorization: Bearer {token}"
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(PATIENCE)
        slow.connect(("127.0.0.1", int(host.rpartition(":")[2])))
        slow.sendall(f"GET /api/stream HTTP/1.1\r\nHost: {host}\r\n{access}\r\n\r\n".encode())
        taken = b""
        while b"event: event" not in taken:  # it follows the events by now
            control.ask("set_link", {"name": "pcie0", "up": False})
            control.ask("set_link", {"name": "pcie0", "up": True})
            taken += slow.recv(512)
        for number in range(FLOOD):
            control.ask("set_link", {"name": "pcie0", "up": number % 2 == 0})
        request = urllib.request.Request(f"http://{host}/api/topology.svg", headers=dict([access.split(": ")]))
        with urllib.request.urlopen(request, timeout=PATIENCE) as reply:
            assert b"disk0" in reply.read()
        taken = b""
        while not re.search(rb"event: lost\ndata: [1-9]\d*\n", taken):
            data = slow.recv(1 << 16)
            assert data, "the server ended the stream"
            taken += data
