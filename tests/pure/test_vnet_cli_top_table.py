"""The table of ``vnet top``: short numbers, an order, and few lines for many devices."""

from __future__ import annotations

import attrs
import pytest

from vnet.cli.top_table import COLUMNS, Order, head_lines, queue_lines
from vnet.live.rates import DeviceRates, QueueRates, Rates

QUEUE = QueueRates("net0", "rc", "driver", "receiveq1", "live", 0, 0, 0, 0, None, None, 0, 256, 0, 0)
DEVICE = DeviceRates("net0", "net", "pci", True, "", 0, 0, 0, {})
PACKETS = [column.name for column in COLUMNS].index("pkt/s")
BATCH = [column.name for column in COLUMNS].index("pkt/batch")


def rates(*queues: QueueRates, devices: tuple[DeviceRates, ...] = (DEVICE,)) -> Rates:
    return Rates("t", 1.0, {"pcie0": True}, devices, queues)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.421, "0.42"),
        (31.42, "31.4"),
        (812.4, "812"),
        (9999, "9999"),
        (12345, "12.3k"),
        (4.56e6, "4.56M"),
        (9.1e9, "9.10G"),
    ],
)
def test_a_rate_has_at_most_five_characters(value: float, text: str) -> None:
    line = queue_lines(rates(attrs.evolve(QUEUE, packets=value)), Order())[2]
    assert line.split()[PACKETS] == text


def test_queues_stand_in_the_order_of_the_system_or_of_a_column() -> None:
    rows = [attrs.evolve(QUEUE, queue=name, packets=count) for name, count in (("b", 1), ("a", 3), ("c", 2))]
    names = {
        order: [row.queue for row in order.sorted(rows)]
        for order in (Order(), Order(None, True), Order(PACKETS), Order(PACKETS, True), Order(2), Order(2, True))
    }
    assert list(map("".join, names.values())) == ["bac", "cab", "acb", "bca", "abc", "cba"]


def test_queues_without_a_value_are_the_last() -> None:
    rows = [attrs.evolve(QUEUE, queue=name, batch=size) for name, size in (("x", None), ("a", 1), ("b", 2))]
    assert [row.queue for row in Order(BATCH).sorted(rows)] == ["b", "a", "x"]
    assert [row.queue for row in Order(BATCH, True).sorted(rows)] == ["a", "b", "x"]


def test_keys_go_through_every_column_and_back() -> None:
    order, seen = Order(), []
    for _ in range(len(COLUMNS) + 1):
        seen.append(order.column)
        order = order.moved(1)
    assert seen == [None, *range(len(COLUMNS))]
    assert order == Order()
    assert order.moved(-1).column == len(COLUMNS) - 1
    assert str(Order(PACKETS, True)) == "sorted by pkt/s, reversed"


def test_each_device_is_a_line() -> None:
    down = attrs.evolve(DEVICE, name="net1", up=False, trouble="no link", restarts=2, drops=3.0, causes={"a.b": 7})
    assert list(head_lines(rates(devices=(DEVICE, down)))) == [
        "t: pcie0 up; rates over 1.0 s",
        "net0: net over pci, up; restarts 0, 0 resets/s; 0 drops/s",
        "net1: net over pci, down (no link); restarts 2, 0 resets/s; 3.00 drops/s (a.b 7)",
    ]


def test_many_devices_are_few_lines_and_those_with_trouble_the_first() -> None:
    devices = [attrs.evolve(DEVICE, name=f"net{at}") for at in range(50)]
    devices[40] = attrs.evolve(DEVICE, name="net40", up=False, trouble="no link")
    devices[30] = attrs.evolve(DEVICE, name="net30", resets=1.0)
    lines = list(head_lines(rates(devices=tuple(devices)), 4))
    assert [line.split(":")[0] for line in lines[1:4]] == ["net40", "net30", "net0"]
    assert lines[4] == "47 more devices, 47 of them up"
    assert len(lines) == 5


@pytest.mark.parametrize(
    ("links", "text"),
    [
        ({"a": True}, "a up"),
        ({"a": True, "b": True}, "2 links up"),
        ({"a": True, "b": False}, "b down"),
        ({}, "0 links up"),
    ],
)
def test_links_that_are_down_are_named(links: dict[str, bool], text: str) -> None:
    line = next(head_lines(attrs.evolve(rates(), links=links)))
    assert line == f"t: {text}; rates over 1.0 s"
