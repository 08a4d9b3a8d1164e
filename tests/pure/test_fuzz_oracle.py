"""The fuzzer finds what breaks a rule: errors, too much work, leaks, growth. Its corpora stay small."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import attrs
import pytest
import trio
from fuzz import command, minimise, oracle
from fuzz.engines import ENGINES, Limits, default_engine
from fuzz.oracle import Finding, Judge, run_tasks
from fuzz.source import Source
from fuzz.table import TARGETS, Target

from rings.features import bits


@attrs.frozen
class Made(Target):
    """A target that is no module."""

    function: Callable[[bytes], None] = lambda data: None

    def load(self) -> Callable[[bytes], None]:
        return self.function


def made(function: Callable[[bytes], None], *, opens: bool = False) -> Made:
    return Made("made", "", "", opens=opens, function=function)


def divide(data: bytes) -> None:
    """Fails for inputs that have a zero behind any other byte."""
    for before, byte in pairwise(data):
        if before:
            before // byte


def test_an_error_of_the_code_leaves_the_judge() -> None:
    judge = Judge(made(divide))
    judge(b"\1\2")
    with pytest.raises(ZeroDivisionError):
        judge(b"\1\0")


def test_too_much_work_without_a_checkpoint_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "CALLS_MAX", 1000)

    def work(data: bytes) -> None:
        for _ in range(len(data)):
            len(data)

    judge = Judge(made(work))
    judge(bytes(900), counted=True)
    assert 900 <= judge.calls_max <= 1000
    with pytest.raises(Finding, match="calls without a checkpoint"):
        judge(bytes(1100), counted=True)


def test_a_checkpoint_ends_the_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(oracle, "CALLS_MAX", 1000)

    def work(data: bytes) -> None:
        async def turns() -> None:
            for _ in range(20):
                await trio.lowlevel.checkpoint()
                for _ in range(len(data)):
                    len(data)

        run_tasks(turns)

    judge = Judge(made(work))
    judge(bytes(500), counted=True)
    with pytest.raises(Finding, match="calls without a checkpoint"):
        judge(bytes(1100), counted=True)


def test_a_task_that_waits_for_ever_is_a_finding() -> None:
    with pytest.raises(Finding, match="no end after 120 s"):
        run_tasks(trio.sleep_forever)


def test_a_descriptor_left_open_is_a_finding() -> None:
    fds: list[int] = []
    judge = Judge(made(lambda data: fds.append(os.eventfd(0)) if data else None, opens=True))
    judge(b"")
    try:
        with pytest.raises(Finding, match="1 file descriptors more"):
            judge(b"\0")
    finally:
        os.close(*fds)


def test_memory_that_grows_with_each_input_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WARM_UP", 10), ("EVERY", 100), ("GROWTH_AFTER", 200)):
        monkeypatch.setattr(oracle, name, value)
    kept: list[object] = []
    judge = Judge(made(lambda data: kept.append([data, object()])))

    def run() -> None:
        for _ in range(500):
            judge(b"x")

    with pytest.raises(Finding, match="memory grows by"):
        run()
    assert judge.growth is not None


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_finds_an_input_that_breaks_a_rule(engine: str, tmp_path: Path) -> None:
    """atheris runs its targets by name, in another process: here it is only shown to run one."""
    if engine == "hypothesis":
        outcome = ENGINES[engine](made(divide), Limits(60, 5000, 1), tmp_path)
        assert "ZeroDivisionError" in outcome.trouble
        assert bytes.fromhex(outcome.crash) == b"\1\0"
        return
    if default_engine() != engine:
        pytest.skip("atheris is not installed")
    outcome = ENGINES[engine](TARGETS["net_control"], Limits(60, 3000, 1), tmp_path)
    assert (outcome.executions, outcome.crash, outcome.trouble) == (3000, "", "")
    assert outcome.edges


def test_values_are_those_of_the_bytes_and_missing_ones_are_zero() -> None:
    source = Source(bytes((7, 0xC0, 0x34, 0x12, 0xFF, 2, 0xAA, 0xBB, 0xCC)))
    assert (source.byte(), source.number(2), source.number(1)) == (7, 0x1234, 0)
    assert (source.blob(10), source.left, source.rest(), source.left) == (b"\xaa\xbb", 1, b"\xcc", 0)
    assert (source.byte(), source.word(4), source.flag(), source.pick("ab")) == (0, 0, False, "a")
    assert all(0 <= Source(bytes((first,)) + b"\xff" * 8).number(4) < 1 << 32 for first in range(256))


def test_a_corpus_keeps_few_inputs_that_reach_all_lines() -> None:
    def run(data: bytes) -> None:
        list(bits(int.from_bytes(data[:1], "little")))

    chosen = minimise.choose(made(run), [b"\0", b"\3", b"\7", b"\7\7"], 10)
    assert chosen
    assert len(chosen) < 4
    assert b"\7\7" not in chosen


def test_the_command_lists_targets_and_refuses_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(TARGETS)
    assert command.main(["nothing"]) == 2
    assert "no target 'nothing'" in capsys.readouterr().err
    assert command.main(["tlp", "--input", "00"]) == 0
    assert "tlp: no rule broken" in capsys.readouterr().out
    assert command.main(["tlp", "--input", "0"]) == 2
    assert "must be hexadecimal" in capsys.readouterr().err
