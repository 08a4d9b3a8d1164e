"""The options of ``vnet fault`` that set rules, made from the table of faults, and scripts of them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from drivers.fields import FieldError
from vnet.errors import ConfigError, ControlError
from vnet.link.faults import FAULTS, FLAPS, Action
from vnet.qmp.fault_records import FaultRule

__all__ = ["OPTIONS", "option_name", "read_rules", "read_script"]

AMOUNT_RULE = "must be a probability (0.25 or 25%), a number of requests (3), their numbers (@3,7), or all"
TIME = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)?", re.ASCII)
UNITS: Mapping[str | None, float] = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
"""Seconds in a unit of time."""
TIME_RULE = "must be a time such as 10s, 500ms or 2m"
SCRIPT_MAX = 1 << 20
"""Largest script in bytes."""
STANDARD = Path("-")


def option_name(key: str) -> str:
    """Return the option with the name of a key of topology files."""
    return f"--{key.replace('_', '-')}"


DELAYED = tuple(name for name, kind in FAULTS.items() if kind.action is Action.DELAY)
TIMES: Mapping[str, tuple[str, str, str]] = {
    "delay": ("delay_ms", "MS", "Delay of delayed interrupts. Default: as in the topology, or 5."),
    "every": (FLAPS, "MS", "The link goes down and up again, every so many milliseconds."),
    "length": ("flap_ms", "MS", "Length of a flap. Default: 50, or half of --flap-every-ms if that is less."),
    "after": ("after", "TIME", "Begin after this time. Default: now."),
    "seconds": ("for", "TIME", "End after this time in force, such as 10s, 500ms or 2m. Default: when cleared."),
}
"""Option, its unit and its help, by the member of `FaultRule` that it sets."""
OPTIONS: tuple[click.Option, ...] = (
    *(click.Option([option_name(name), name], metavar="AMOUNT", help=kind.about) for name, kind in FAULTS.items()),
    *(click.Option([option_name(key), member], metavar=unit, help=text) for member, (key, unit, text) in TIMES.items()),
)
"""The options. Their values are texts, which `read_rules` reads."""
_LINE = click.Command("line", params=list(OPTIONS), add_help_option=False)


def read_rules(values: Mapping[str, str | None]) -> list[FaultRule]:
    """Return the rules of the values of `OPTIONS`. Raises ControlError, which names the option."""
    texts = {name: value for name, value in values.items() if value is not None}
    chosen = {name: _amount(name, texts[name]) for name in FAULTS if name in texts}
    times = {member: _time(member, texts[member]) for member in TIMES if member in texts}
    for member, faults, names in (("delay", DELAYED, DELAYED), ("length", ("every",), (FLAPS,))):
        if member in times and not texts.keys() & set(faults):
            raise ControlError(f"{_option(member)} requires {' or '.join(map(option_name, names))}")
    common = {member: times[member] for member in ("after", "seconds") if member in times}
    rules = []
    for fault, amount in chosen.items():
        own = {"delay": times["delay"]} if fault in DELAYED and "delay" in times else {}
        rules.append(_rule(texts, fault=fault, **amount, **own, **common))
    if "every" in times:
        own = {member: times[member] for member in ("every", "length") if member in times}
        rules.append(_rule(texts, fault=FLAPS, **own, **common))
    if common and not rules:
        raise ControlError(f"{_option(next(iter(common)))} requires a fault: {', '.join(map(option_name, FAULTS))}")
    return rules


def read_script(file: Path) -> list[FaultRule]:
    """Return the rules of a file, a line of options each; ``#`` begins a comment. Raises ConfigError, OSError."""
    rules, errors = [], []
    for number, line in enumerate(_text(file).splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
            own = read_rules(_LINE.make_context("line", words).params)
            if words and not own:
                raise ControlError(f"must set a fault: {', '.join(map(option_name, FAULTS))}")
            rules += own
        except click.UsageError as exc:
            errors.append(ConfigError(f"{file}:{number}", "", None, exc.format_message()))
        except (ControlError, ValueError) as exc:
            errors.append(ConfigError(f"{file}:{number}", "", None, str(exc)))
    if errors:
        errors[0].more = tuple(errors[1:])
        raise errors[0]
    if not rules:
        raise ConfigError(str(file), "", None, "sets no fault")
    return rules


def _text(file: Path) -> str:
    """Return the text of a script; ``-`` is standard input. Raises ConfigError, OSError."""
    with click.open_file(str(file), "rb") as stream:
        data = stream.read(SCRIPT_MAX + 1)
    if len(data) > SCRIPT_MAX:
        raise ConfigError(str(file), "", None, f"must be at most {SCRIPT_MAX >> 20} MiB long")
    try:
        return str(data.decode())
    except UnicodeDecodeError:
        raise ConfigError(str(file), "", None, "must be UTF-8 text") from None


def _option(member: str) -> str:
    return option_name(TIMES[member][0])


def _rule(texts: Mapping[str, str], **members: Any) -> FaultRule:
    """Return a rule. Raises ControlError."""
    try:
        rule = FaultRule(**members)
        for problem in rule.problems():
            raise problem
    except FieldError as exc:
        member = str(exc.keys[0])
        if member in TIMES:
            raise ControlError(f"{_option(member)} {texts[member]}: {exc.why}") from None
        fault = members["fault"]
        raise ControlError(f"{option_name(fault)} {texts[fault]}: {exc.why}") from None
    return rule


def _amount(fault: str, text: str) -> dict[str, Any]:
    """Return the members of a rule for an amount of requests. Raises ControlError."""
    try:
        return dict(_amounts(text.strip()))
    except ValueError:
        raise ControlError(f"{option_name(fault)} {text}: {AMOUNT_RULE}") from None


def _amounts(text: str) -> Iterator[tuple[str, Any]]:
    if text == "all":
        yield "rate", 1.0
    elif text.startswith("@"):
        yield "nth", tuple(int(number) for number in text[1:].split(","))
    elif text.endswith("%"):
        yield "rate", float(text[:-1]) / 100
    elif text.isdecimal():
        yield ("count", int(text)) if int(text) else ("rate", 0.0)
    else:
        yield "rate", float(text)


def _time(member: str, text: str) -> float:
    """Return a time, in the unit of the member. Raises ControlError."""
    _, unit, _ = TIMES[member]
    if unit == "MS":
        try:
            return float(text)
        except ValueError:
            raise ControlError(f"{_option(member)} {text}: must be a number (ms)") from None
    match = TIME.fullmatch(text.strip())
    if match is None:
        raise ControlError(f"{_option(member)} {text}: {TIME_RULE}")
    return float(match[1]) * UNITS[match[2]]
