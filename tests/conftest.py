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
    "support.rigs.arena",
    "support.rigs.ring",
    "support.rigs.run_dir",
    "support.rigs.tun",
    "support.rigs.vhost_front",
]

# Machines that run tests are shared and slow at times: examples are bounded by number, never by time.
hypothesis.settings.register_profile("vnet", deadline=None, print_blob=True)
hypothesis.settings.load_profile("vnet")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--native-rings", action="store_true", help="tests of rings: take every plain chain in C")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "watches_words: needs a log of each load and store, which C does not write")
    if config.getoption("--native-rings"):
        from rings.native import NATIVE, WHY_NOT
        from support.rigs.ring import Sides

        if not NATIVE:
            raise pytest.UsageError(f"--native-rings: the native plain path is {WHY_NOT}")
        Sides.use_native()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--native-rings"):
        skip = pytest.mark.skip("needs a log of each load and store")
        for item in items:
            if item.get_closest_marker("watches_words"):
                item.add_marker(skip)


# A shell ignores Ctrl-C in background jobs, and nohup ignores SIGHUP; programs of tests would inherit both.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)
