"""``vnet metrics --listen`` serves scrapes while a system runs, before, and after."""

from __future__ import annotations

import re
import signal
import subprocess
import urllib.request

import pytest

from support.cli import PATIENCE, PING, READY, Up
from support.paths import VNET


def scrape(port: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as reply:
        text: str = reply.read().decode()
        return text


@pytest.mark.usefixtures("privileged", "no_leaks")
def test_figures_are_served_until_a_signal_ends_it(name: str, started: list[Up]) -> None:
    command = [VNET, "metrics", "--name", name, "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.fullmatch(
            rf"http://127\.0\.0\.1:(\d+)/metrics has the figures of {name} \({name} does not run yet\)\. "
            r"Ctrl-C ends it\.\n",
            line,
        )
        assert match is not None, line
        port = match[1]
        assert f'\nvnet_up{{system="{name}"}} 0.0\n' in scrape(port)
        up = Up(name)
        started.append(up)
        up.wait_for(READY)
        assert up.exec("rc", *PING, "198.18.0.2").returncode == 0
        text = scrape(port)
        assert f'\nvnet_up{{system="{name}"}} 1.0\n' in text
        packets = re.search(r'vnet_queue_packets_total{device="net0",host="rc",queue="transmitq1",.*} (.*)', text)
        assert packets is not None
        assert float(packets[1]) >= 2
        assert up.end(signal.SIGTERM) == 0
        assert f'\nvnet_up{{system="{name}"}} 0.0\n' in scrape(port)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=PATIENCE) == ("", "")
    assert process.returncode == 0
