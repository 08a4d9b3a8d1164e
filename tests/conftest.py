"""Settings that all tests share."""

from __future__ import annotations

import signal

import hypothesis
import pytest

pytest.register_assert_rewrite("support")

pytest_plugins = [
    "pytester",
    "support.cli",
    "support.machine",
    "support.requirements",
    "support.rigs.ring",
    "support.rigs.run_dir",
    "support.rigs.tun",
]

# Machines that run tests are shared and slow at times: examples are bounded by number, never by time.
hypothesis.settings.register_profile("vnet", deadline=None, print_blob=True)
hypothesis.settings.load_profile("vnet")

# A shell ignores Ctrl-C in background jobs, and nohup ignores SIGHUP; programs of tests would inherit both.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)
