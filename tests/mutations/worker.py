"""One process for each file of tests, and a fork of it for each edit.

The process collects the file once. A fork gives the functions their edited code and runs the one test. An edit of a
table or a class has to be there before its module is imported: it gets a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import hypothesis
import pytest

from mutations.edit import Stale, apply_live, edited, install, is_live, pass_on
from mutations.table import Mutation
from mutations.verdict import Result, Verdict, judge

CPU = 60
"""Seconds of processor time for one mutation; an endless loop takes more."""
WALL = 600
"""Seconds for one mutation, on a machine that is busy; a test that waits for ever takes more."""
OPTIONS = (
    *("-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:timeout", "-p", "no:terminal"),
    *("-o", "addopts=--import-mode=importlib", "-o", "filterwarnings="),
)


def run_group(mutations: Sequence[Mutation], results: Connection) -> None:
    """Run mutations whose tests are in one file, and send (name, result) of each. Runs in a process of its own."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    ready = [mutation for mutation in mutations if _check(mutation, results)]
    live = [mutation for mutation in ready if all(map(is_live, mutation.edits))]
    for mutation in ready:
        if mutation not in live:
            results.send((mutation, _fork(lambda mutation=mutation: _run_edited(mutation))))  # type: ignore[misc]
    if live:
        _run_pytest(live[0], lambda items: _run_each(live, items, results))


def _check(mutation: Mutation, results: Connection) -> bool:
    try:
        edited(mutation.edits)
    except Stale as error:
        results.send((mutation, Result(Verdict.STALE, str(error))))
    except SyntaxError as error:
        results.send((mutation, Result(Verdict.WRONG_REASON, f"the edit is no Python: {error}")))
    else:
        return True
    return False


def _run_each(mutations: Iterable[Mutation], items: Sequence[pytest.Item], results: Connection) -> None:
    for mutation in mutations:

        def run(mutation: Mutation = mutation) -> Result:
            apply_live(mutation.edits)
            return _run_items(mutation, items)

        results.send((mutation, _fork(run)))


def _run_edited(mutation: Mutation) -> Result:
    """Run the test with modules that are edited while they are imported."""
    try:
        install(mutation.edits)
    except Exception as error:  # noqa: BLE001  any error of the edited code
        return Result(Verdict.WRONG_REASON, f"the edited module can't be imported: {error!r}")
    results: list[Result] = []
    _run_pytest(mutation, lambda items: results.append(_run_items(mutation, items)))
    return results[0] if results else Result(Verdict.WRONG_REASON, "the tests can't be imported")


def _run_items(mutation: Mutation, items: Sequence[pytest.Item]) -> Result:
    """Run the tests of a mutation until one fails. The error of a test counts, that of a fixture does not."""
    chosen = list(_choose(mutation, items))
    pass_on(mutation.edits)
    if not chosen:
        return Result(Verdict.STALE, f"there is no test {mutation.test}")
    for item in chosen:
        marked = {name for mark in ("virtio", "hostile") for one in item.iter_markers(mark) for name in one.args}
        if missing := [name for name in mutation.ids if name not in marked]:
            return Result(Verdict.UNMARKED, f"{item.name} has no mark {' '.join(missing)}")
        watch = _Errors()
        item.config.pluginmanager.register(watch)
        item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
        item.config.pluginmanager.unregister(watch)
        if watch.errors:
            when, error = watch.errors[0]
            result = judge(error, mutation.raises)
            if when == "setup" and result.verdict is Verdict.CAUGHT:
                return Result(Verdict.WRONG_REASON, f"in a fixture: {result.reason}")
            return result
    return Result(Verdict.SURVIVED, f"{len(chosen)} tests passed")


def _choose(mutation: Mutation, items: Iterable[pytest.Item]) -> Iterator[pytest.Item]:
    name = mutation.test.partition("::")[2]
    for item in items:
        place = item.nodeid.partition("::")[2]
        if place == name or place.startswith(f"{name}["):
            yield item


class _Errors:
    """Collects the errors of one test."""

    def __init__(self) -> None:
        self.errors: list[tuple[str, BaseException]] = []

    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> None:
        del item
        if call.excinfo is not None and not isinstance(call.excinfo.value, pytest.skip.Exception):
            self.errors.append((call.when, call.excinfo.value))


class _Loop:
    """Collects as always, and runs something else than all tests one after another."""

    def __init__(self, run: Callable[[Sequence[pytest.Item]], None]) -> None:
        self._run = run

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self) -> None:
        """Make examples the same in each run, and keep them small only if that costs nothing."""
        phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
        parent = hypothesis.settings.get_profile("vnet")
        hypothesis.settings.register_profile("mutations", parent, derandomize=True, database=None, phases=phases)
        hypothesis.settings.load_profile("mutations")

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        if not session.testsfailed:
            self._run(session.items)
        return True


def _run_pytest(mutation: Mutation, run: Callable[[Sequence[pytest.Item]], None]) -> None:
    options = [*OPTIONS, str(mutation.file)]
    if mutation.file.parent.name == "sim":
        options += ["--only-transport", mutation.transport]
    pytest.main(options, plugins=[_Loop(run)])


def _fork(run: Callable[[], Result]) -> Result:
    """Run in a fork, bounded by its processor time and its time, and return its result."""
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        with contextlib.suppress(BaseException):
            os.close(reader)
            resource.setrlimit(resource.RLIMIT_CPU, (CPU, CPU))
            signal.alarm(WALL)
            try:
                result = run()
            except BaseException as error:  # noqa: BLE001  the parent reports it
                result = Result(Verdict.WRONG_REASON, f"{type(error).__name__}: {error}")
            os.write(writer, pickle.dumps(result))
        os._exit(0)
    os.close(writer)
    with Path(f"/dev/fd/{reader}").open("rb") as stream:
        data = stream.read()
    os.close(reader)
    _, status = os.waitpid(pid, 0)
    if not data:
        return Result(Verdict.WRONG_REASON, f"time-out or crash: signal {os.waitstatus_to_exitcode(status)}")
    received: Result = pickle.loads(data)
    return received
