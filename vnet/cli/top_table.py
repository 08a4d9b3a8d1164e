"""The columns of ``vnet top``, and its lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import attrs

from vnet.cli.table import render
from vnet.live.rates import DeviceRates, QueueRates, Rates

__all__ = ["COLUMNS", "Column", "Order", "head_lines", "queue_lines"]

Value = str | float | None


@attrs.frozen
class Column:
    """A column of the table of queues."""

    name: str
    value: Callable[[QueueRates], Value]
    """The value that rows are sorted by."""
    text: Callable[[Value], str] = str

    @property
    def numeric(self) -> bool:
        """Whether its values are numbers."""
        return self.text is not str


def _rate(value: Value) -> str:
    """Return a rate with at most five characters: 0, 0.42, 31.4, 812, 12.3k, 4.56M."""
    if not isinstance(value, int | float):
        return "-"
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if value >= unit:
            return f"{_short(value / (1e3 if name == 'k' else unit))}{name}"
    return _short(value)


def _short(value: float) -> str:
    if not value:
        return "0"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _whole(value: Value) -> str:
    return str(value)


def _percent(value: Value) -> str:
    return f"{100 * value:.0f}%" if isinstance(value, int | float) else "-"


COLUMNS: Sequence[Column] = (
    Column("device", lambda row: row.device),
    Column("side", lambda row: row.side),
    Column("queue", lambda row: row.queue),
    Column("state", lambda row: row.state),
    Column("pkt/s", lambda row: row.packets, _rate),
    Column("bit/s", lambda row: row.bits, _rate),
    Column("kick/s", lambda row: row.kicks, _rate),
    Column("call/s", lambda row: row.calls, _rate),
    Column("sent/pkt", lambda row: row.notifications_per_packet, _rate),
    Column("pkt/batch", lambda row: row.batch, _rate),
    Column("fill", lambda row: row.fill, _percent),
    Column("num", lambda row: row.num, _whole),
    Column("drop/s", lambda row: row.drops, _rate),
    Column("rescue/s", lambda row: row.rescues, _rate),
)


@attrs.frozen
class Order:
    """The order of the queues: by a column, largest numbers or first names first; else that of the system."""

    column: int | None = None
    """None: the order of the system."""
    reverse: bool = False

    def moved(self, step: Literal[-1, 1]) -> Order:
        """Return the order by the next column, or by the one before."""
        places = len(COLUMNS) + 1
        at = ((-1 if self.column is None else self.column) + 1 + step) % places - 1
        return attrs.evolve(self, column=None if at < 0 else at)

    def sorted(self, queues: Sequence[QueueRates]) -> list[QueueRates]:
        """Return the queues in this order; those without a value are the last."""
        if self.column is None:
            return list(queues)[:: -1 if self.reverse else 1]
        column = COLUMNS[self.column]
        known = [row for row in queues if column.value(row) is not None]
        if column.numeric:
            known.sort(key=lambda row: float(column.value(row) or 0), reverse=not self.reverse)
        else:
            known.sort(key=lambda row: str(column.value(row)), reverse=self.reverse)
        return known + [row for row in queues if column.value(row) is None]

    def __str__(self) -> str:
        name = "system" if self.column is None else COLUMNS[self.column].name
        return f"sorted by {name}{', reversed' if self.reverse else ''}"


def head_lines(rates: Rates, most: int | None = None) -> Iterator[str]:
    """Yield a line for the system and its links, and one for each device; of these at most ``most``.

    If there are more devices, the first ones are those that are down, reset or lose packets.
    """
    down = [name for name, up in rates.links.items() if not up]
    links = f"{len(rates.links)} links up" if len(rates.links) != 1 else f"{next(iter(rates.links))} up"
    state = f"{', '.join(down)} down" if down else links
    yield f"{rates.system}: {state}; rates over {rates.seconds:.1f} s"
    devices = list(rates.devices)
    if most is not None and len(devices) > most:
        devices.sort(key=lambda device: (device.up, not device.resets, not device.drops, not device.causes))
        yield from map(_device_line, devices[: most - 1])
        yield f"{len(devices) - most + 1} more devices, {sum(device.up for device in devices[most - 1 :])} of them up"
    else:
        yield from map(_device_line, devices)


def _device_line(device: DeviceRates) -> str:
    state = "up" if device.up else f"down ({device.trouble})"
    causes = ", ".join(f"{cause} {count}" for cause, count in device.causes.items())
    drops = f"{_rate(device.drops)} drops/s" + (f" ({causes})" if causes else "")
    resets = f"restarts {device.restarts}, {_rate(device.resets)} resets/s"
    return f"{device.name}: {device.type} over {device.transport}, {state}; {resets}; {drops}"


def queue_lines(rates: Rates, order: Order) -> list[str]:
    """Return the table of queues: two lines of head, then a line for each queue."""
    rows = [[column.text(column.value(row)) for column in COLUMNS] for row in order.sorted(rates.queues)]
    return render([column.name for column in COLUMNS], rows, [column.numeric for column in COLUMNS]).splitlines()
