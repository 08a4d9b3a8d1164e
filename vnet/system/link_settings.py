"""Settings of a link that change while it runs: the keys of its record that make accesses take time."""

from __future__ import annotations

from typing import Any

import attrs

from vnet.errors import FieldError
from vnet.link.timed import NS, TimedLink
from vnet.link.tlp import READ_LATENCY_KEY, TIMING_KEYS
from vnet.spec import LinkSpec
from vnet.topology.reference import keys_of

__all__ = ["change_link", "link_setting_rows"]

NONE = "none"
"""Value of ``completion_boundary`` that stands for no boundary."""


def change_link(link: TimedLink | None, setting: str, value: str, *, wired: bool = False) -> None:
    """Change a setting of a link; None: its accesses take no time. ``wired``: it carries its requests as packets.

    Raises LookupError for a setting that does not exist or cannot change, ValueError "must be …" for a bad value.
    """
    if setting not in TIMING_KEYS:
        raise LookupError(f"unknown setting {setting}; known are {', '.join(TIMING_KEYS)}")
    if link is None:
        raise LookupError(f"its accesses take no time; a topology file that sets {setting} makes them take some")
    number = _number(setting, value)
    if wired and setting != READ_LATENCY_KEY:
        raise LookupError(
            f"{setting} stays as it is: the ports of a wire keep the rate and the packets that they were trained with. "
            f"A topology file sets them; only {READ_LATENCY_KEY} changes"
        )
    if setting == READ_LATENCY_KEY:
        assert number is not None
        link.change(link.parameters, number * NS)
    else:
        changes: dict[str, Any] = {setting: number}
        link.change(attrs.evolve(link.parameters, **changes), link.read_latency)


def link_setting_rows() -> list[tuple[str, str]]:
    """Return each setting with its values, and a phrase that says what it sets, for help texts."""
    rows = []
    for key in keys_of(LinkSpec):
        if key.name in TIMING_KEYS:
            about, _, values = key.doc.partition("Must be ")
            rows.append((f"{key.name} {values.rstrip('.')}", about.partition(". ")[0].rstrip(". ")))
    return rows


def _number(setting: str, value: str) -> int | None:
    """Return the value of a setting. Raises ValueError."""
    if setting == "completion_boundary" and value == NONE:
        return None
    try:
        number = int(value)
    except ValueError:
        raise ValueError("must be a whole number") from None
    checked: dict[str, Any] = {setting: number}
    try:
        LinkSpec("", "", **checked)
    except FieldError as exc:
        raise ValueError(exc.why) from None
    return number
