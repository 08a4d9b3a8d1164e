"""The options of ``vnet fault``: one for each fault of the table, what their values mean, and scripts of them."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnet.cli.common import lines
from vnet.cli.fault_options import OPTIONS, SCRIPT_MAX, TIMES, read_rules, read_script
from vnet.errors import ConfigError, ControlError
from vnet.link.faults import FAULTS, FLAPS, Flap, Rule
from vnet.qmp.fault_records import NAMES, FaultRule
from vnet.spec import FaultSpec

AMOUNT = "must be a probability (0.25 or 25%), a number of requests (3), their numbers (@3,7), or all"


def test_every_fault_of_topology_files_has_an_option_and_no_other_has_one() -> None:
    keys = {field.name for field in attrs.fields(FaultSpec)} - {"seed"}
    options = {option.opts[0].removeprefix("--").replace("-", "_") for option in OPTIONS}
    assert options == keys | {"after", "for"}
    assert set(NAMES) == {*FAULTS, FLAPS}
    assert {*FAULTS, *(key for key, _, _ in TIMES.values())} == keys | {"after", "for"}


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("0.25", {"rate": 0.25}),
        ("25%", {"rate": 0.25}),
        ("1.0", {"rate": 1.0}),
        ("all", {"rate": 1.0}),
        (".5", {"rate": 0.5}),
        ("3", {"count": 3}),
        ("1", {"count": 1}),
        ("0", {"rate": 0.0}),
        ("@3", {"nth": (3,)}),
        ("@3,7", {"nth": (3, 7)}),
    ],
)
def test_an_amount_is_a_probability_a_number_or_numbers(text: str, members: dict[str, object]) -> None:
    assert read_rules({"timeouts": text}) == [FaultRule(fault="timeouts", **members)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "seconds"), [("10", 10), ("10s", 10), ("500ms", 0.5), ("2m", 120), ("1h", 3600), ("1.5s", 1.5)]
)
def test_a_time_has_a_unit(text: str, seconds: float) -> None:
    [rule] = read_rules({"timeouts": "3", "seconds": text, "after": text})
    assert (rule.seconds, rule.after) == (seconds, seconds)


def test_times_concern_all_faults_of_a_command_and_delays_those_that_delay() -> None:
    rules = read_rules({"timeouts": "3", "delayed_interrupts": "0.5", "delay": "20", "seconds": "9"})
    assert rules == [
        FaultRule(fault="delayed_interrupts", rate=0.5, delay=20.0, seconds=9.0),
        FaultRule(fault="timeouts", count=3, seconds=9.0),
    ]
    assert read_rules({"every": "500", "length": "20"}) == [FaultRule(fault=FLAPS, every=500.0, length=20.0)]
    assert read_rules({}) == []


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"timeouts": "1.5"}, "--timeouts 1.5: must be between 0 and 1 (a probability)"),
        ({"timeouts": "-1"}, "--timeouts -1: must be between 0 and 1 (a probability)"),
        ({"timeouts": "nan"}, "--timeouts nan: must be between 0 and 1 (a probability)"),
        ({"timeouts": "101%"}, "--timeouts 101%: must be between 0 and 1 (a probability)"),
        ({"timeouts": ""}, f"--timeouts : {AMOUNT}"),
        ({"timeouts": "some"}, f"--timeouts some: {AMOUNT}"),
        ({"timeouts": "@"}, f"--timeouts @: {AMOUNT}"),
        ({"timeouts": "@x"}, f"--timeouts @x: {AMOUNT}"),
        ({"timeouts": "@0"}, "--timeouts @0: must be numbers between 1 and 1000000000"),
        ({"timeouts": "2000000000"}, "--timeouts 2000000000: must be between 1 and 1000000000 (requests)"),
        ({"timeouts": "1", "seconds": "-3s"}, "--for -3s: must be a time such as 10s, 500ms or 2m"),
        ({"timeouts": "1", "seconds": "0"}, "--for 0: must be above 0 and at most 10000000 (s)"),
        ({"timeouts": "1", "after": "soon"}, "--after soon: must be a time such as 10s, 500ms or 2m"),
        ({"timeouts": "1", "delay": "20"}, "--delay-ms requires --delayed-interrupts"),
        ({"delayed_interrupts": "1", "delay": "x"}, "--delay-ms x: must be a number (ms)"),
        ({"delayed_interrupts": "1", "delay": "-5"}, "--delay-ms -5: must be above 0 and at most 3600000 (ms)"),
        ({"length": "20"}, "--flap-ms requires --flap-every-ms"),
        ({"every": "0"}, "--flap-every-ms 0: must be above 0 and at most 3600000 (ms)"),
        ({"every": "9", "length": "9"}, "--flap-every-ms 9: must be above 9 (length), or the link is never up"),
        (
            {"seconds": "3"},
            f"--for requires a fault: {', '.join(option.opts[0] for option in OPTIONS[: len(FAULTS)])}",
        ),
    ],
)
def test_a_bad_value_is_refused_with_the_option_and_the_reason(values: dict[str, str | None], why: str) -> None:
    with pytest.raises(ControlError) as caught:
        read_rules(values)
    assert str(caught.value) == why


@given(st.text(max_size=12))
def test_any_text_is_a_rule_or_refused(text: str) -> None:
    for option in ("timeouts", "every"):
        try:
            [rule] = read_rules({option: text})
        except ControlError:
            continue
        assert isinstance(rule.rule(), Rule | Flap | None)


def test_a_number_of_too_many_digits_is_refused() -> None:
    with pytest.raises(ControlError, match="must be"):
        read_rules({"timeouts": "9" * 5000})


# Scripts


def test_each_line_of_a_script_has_options(tmp_path: Path) -> None:
    file = tmp_path / "faults"
    file.write_text("# two rules\n\n--timeouts 3 --aborted 0.5  # at once\n--timeouts @9 --after 5s\n")
    assert read_script(file) == [
        FaultRule(fault="timeouts", count=3),
        FaultRule(fault="aborted", rate=0.5),
        FaultRule(fault="timeouts", nth=(9,), after=5.0),
    ]


def test_a_script_comes_from_standard_input_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"--timeouts 3")))
    assert read_script(Path("-")) == [FaultRule(fault="timeouts", count=3)]


def test_all_errors_of_a_script_are_reported_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "faults"
    file.write_text('--timeouts 3\n--lose 2\n--timeouts 5.0\n"\n--for 2s\ntimeouts 3\n--timeouts\n--script x\n')
    with pytest.raises(ConfigError) as caught:
        read_script(file)
    where = [line.removeprefix(f"{file}:") for line in lines(caught.value)]
    assert [line.partition(":")[0] for line in where] == ["2", "3", "4", "5", "6", "7", "8"]
    assert where[0].startswith("2: No such option '--lose'.")
    assert where[1] == "3: --timeouts 5.0: must be between 0 and 1 (a probability)"
    assert where[2] == "4: No closing quotation"
    assert where[3].startswith("5: --for requires a fault: ")
    assert where[4] == "6: Got unexpected extra arguments (timeouts 3)"
    assert where[5] == "7: Option '--timeouts' requires an argument."
    assert where[6].startswith("8: No such option '--script'.")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "sets no fault"),
        (b"# nothing\n", "sets no fault"),
        (b"\xff", "must be UTF-8 text"),
        (b"#" * (SCRIPT_MAX + 1), "must be at most 1 MiB long"),
    ],
)
def test_a_file_that_is_no_script_is_refused(tmp_path: Path, data: bytes, why: str) -> None:
    file = tmp_path / "faults"
    file.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        read_script(file)
    assert lines(caught.value) == [f"{file}: {why}"]
