"""A namespace's interfaces as netlink messages describe them."""

from __future__ import annotations

import struct

import pytest

from vnet.linux.netlink.link_table import InterfaceState, LinkTable
from vnet.linux.netlink.rtnetlink import AddressInfo, LinkInfo, Message, Type, attributes, messages

MAC = b"\x02\0\0\0\0\x01"
UP, RUNNING, ALLMULTI = 0x1003, 0x40, 0x200
AF_UNSPEC, AF_BRIDGE, AF_INET, AF_INET6 = 0, 7, 2, 10
PLAIN = InterfaceState("vnet0", MAC, 1500, running=True)
V4, V6 = bytes((198, 18, 0, 1)), bytes.fromhex("20010002000000000000000000000001")


def attribute(kind: int, content: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(content), kind) + content + bytes(-len(content) % 4)


def number(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def link(
    index: int = 2,
    *rest: bytes,
    kind: int = Type.NEW_LINK,
    name: str = "vnet0",
    flags: int = UP | RUNNING,
    family: int = AF_UNSPEC,
    serial: int = 0,
) -> Message:
    body = struct.pack("=BxHiII", family, 0xFFFE, index, flags, 0) + attribute(3, name.encode() + b"\0")
    return Message(kind, 0, serial, body + b"".join(rest))


def tap(*rest: bytes, flags: int = UP | RUNNING, serial: int = 0) -> Message:
    return link(2, attribute(1, MAC), number(4, 1500), *rest, flags=flags, serial=serial)


def vlan(index: int, lower: int, vid: int, *rest: bytes, kind: int = Type.NEW_LINK) -> Message:
    info = attribute(1, b"vlan\0") + attribute(2 | 0x8000, attribute(1, struct.pack("=H", vid)))
    return link(index, number(5, lower), attribute(18 | 0x8000, info), *rest, name=f"vnet0.{vid}", kind=kind)


def address(
    ip: bytes, *, index: int = 2, kind: int = Type.NEW_ADDRESS, prefix: int = 24, local: bytes = b""
) -> Message:
    family = AF_INET if len(ip) == 4 else AF_INET6
    body = struct.pack("=BBBBi", family, prefix, 0, 0, index) + attribute(1, ip)
    return Message(kind, 0, 0, body + (attribute(2, local) if local else b""))


def done(table: LinkTable, *, interrupted: bool = False) -> bytes:
    """The end of the dump that was asked for last; what is asked for next."""
    changed, request = table.apply(Message(Type.DONE, 0x10 if interrupted else 0, requests(table), b""))
    assert not changed
    return request


def requests(table: LinkTable) -> int:
    return table._serial


def table_of(*actual: Message) -> LinkTable:
    """A table that has read its namespace, with these messages after that."""
    table = LinkTable()
    assert kind_of(table.read_all()) == Type.GET_LINK
    assert kind_of(done(table)) == Type.GET_ADDRESS
    assert done(table) == b""
    assert (table.reading, table.readings) == (False, 1)
    for each in actual:
        table.apply(each)
    return table


def kind_of(request: bytes) -> int:
    [message] = messages(request)
    return message.type


MACVLAN = attribute(18 | 0x8000, attribute(1, b"macvlan\0"))


@pytest.mark.parametrize(
    ("actual", "state"),
    [
        ([tap()], PLAIN),
        ([tap(flags=UP)], InterfaceState("vnet0", MAC, 1500)),
        ([tap(number(30, 2))], InterfaceState("vnet0", MAC, 1500, running=True, promisc=True)),
        ([tap(flags=UP | RUNNING | ALLMULTI)], InterfaceState("vnet0", MAC, 1500, running=True, allmulti=True)),
        ([tap(number(61, 1))], InterfaceState("vnet0", MAC, 1500, running=True, allmulti=True)),
        (
            [vlan(5, 2, 7), tap(), vlan(6, 2, 4094), vlan(7, 3, 9)],
            InterfaceState("vnet0", MAC, 1500, running=True, vlans=frozenset({7, 4094})),
        ),
        ([vlan(5, 2, 7), tap(), vlan(5, 2, 7, kind=Type.DEL_LINK)], PLAIN),
        ([vlan(5, 2, 7, number(37, 0)), tap()], PLAIN),
        ([link(2, name="tun0")], InterfaceState("tun0", running=True)),
        ([link(3, number(5, 2), MACVLAN, name="mv0"), tap()], PLAIN),
        ([tap(), link(2, number(4, 9000), family=AF_BRIDGE)], PLAIN),
        ([tap(), link(2, kind=Type.DEL_LINK, family=AF_BRIDGE)], PLAIN),
        ([tap(), link(2, attribute(1, MAC), number(4, 1500), name="eth1")], InterfaceState("eth1", MAC, 1500, True)),
        ([tap(), link(2, kind=Type.DEL_LINK)], None),
        ([], None),
    ],
    ids=[
        "plain",
        "not running",
        "promiscuous",
        "all groups by flag",
        "all groups by count",
        "VLANs",
        "a VLAN deleted",
        "a VLAN on an interface of another namespace",
        "without an address",
        "another kind on top",
        "a bridge's port",
        "a bridge's port no more",
        "renamed",
        "deleted",
        "never there",
    ],
)
def test_the_state_of_an_interface_is_what_its_messages_say(
    actual: list[Message], state: InterfaceState | None
) -> None:
    assert table_of(*actual).state(2) == state


def test_a_vlan_that_moved_to_another_namespace_stays_on_its_interface() -> None:
    table = table_of(tap(), vlan(5, 2, 7))
    assert table.apply(vlan(5, 2, 7, number(45, 3), kind=Type.DEL_LINK)) == ({2, 5}, b"")
    for _ in range(2):
        actual = table.state(2)
        assert actual is not None
        assert actual.vlans == {7}
        table.read_all()
        table.apply(tap(serial=requests(table)))
        done(table)
        done(table)
    table.apply(link(2, kind=Type.DEL_LINK))
    table.apply(tap())
    assert table.state(2) == PLAIN, "another interface with the same index"


def test_addresses_come_and_go_in_the_order_of_their_messages() -> None:
    table = table_of(tap())
    assert table.apply(address(V4)) == ({2}, b"")
    assert table.apply(address(V4)) == (set(), b""), "its lifetime was renewed"
    table.apply(address(V6, prefix=64))
    table.apply(address(bytes((198, 18, 9, 9)), prefix=32, local=bytes((198, 18, 0, 3))))
    table.apply(address(V4, prefix=32))
    table.apply(address(bytes((198, 18, 0, 7)), index=3))

    def known() -> tuple[bytes, ...]:
        actual = table.state(2)
        assert actual is not None
        return actual.addresses

    assert known() == (V4, V6, bytes((198, 18, 0, 3))), "of a point-to-point address the interface's own end"
    table.apply(address(V4, kind=Type.DEL_ADDRESS))
    assert known() == (V6, bytes((198, 18, 0, 3)), V4), "it has the address with the other prefix"
    table.apply(address(V4, prefix=32, kind=Type.DEL_ADDRESS))
    assert table.apply(address(V4, prefix=32, kind=Type.DEL_ADDRESS)) == (set(), b"")
    assert known() == (V6, bytes((198, 18, 0, 3)))
    table.apply(link(2, kind=Type.DEL_LINK))
    table.apply(tap())
    assert known() == ()


def test_only_messages_that_change_something_count_as_a_change() -> None:
    table = table_of(tap())
    assert table.apply(tap()) == (set(), b"")
    assert table.apply(tap(number(30, 1))) == ({2}, b"")
    assert table.apply(vlan(5, 2, 7)) == ({2, 5}, b"")


def test_after_lost_messages_everything_is_read_once_and_what_is_known_stays_until_then() -> None:
    table = table_of(tap(), address(V4))
    assert kind_of(table.read_all()) == Type.GET_LINK
    table.apply(tap(number(30, 1), serial=requests(table)))
    table.apply(link(9, name="x0"))
    assert table.state(2) == InterfaceState("vnet0", MAC, 1500, running=True, addresses=(V4,), networks=((V4, 24),))
    assert table.apply(Message(Type.ERROR, 0, requests(table) + 1, b"")) == (set(), b""), "an answer to another request"
    assert kind_of(done(table)) == Type.GET_ADDRESS
    table.apply(address(V6, prefix=64))
    assert done(table) == b""
    assert table.state(2) == InterfaceState(
        "vnet0", MAC, 1500, running=True, promisc=True, addresses=(V6,), networks=((V6, 64),)
    )
    assert table.readings == 2


@pytest.mark.parametrize("why", ["the kernel says so", "messages were lost again"])
def test_a_dump_that_may_be_inconsistent_is_repeated(why: str) -> None:
    table = table_of(tap())
    table.read_all()
    if why == "messages were lost again":
        assert table.read_all() == b"", "one dump at a time"
    assert kind_of(done(table, interrupted=why == "the kernel says so")) == Type.GET_ADDRESS
    assert kind_of(done(table)) == Type.GET_LINK
    assert (table.reading, table.readings) == (True, 1)
    assert table.state(2) == PLAIN
    done(table)
    done(table)
    assert (table.state(2), table.readings) == (None, 2)


def test_truncated_messages_and_attributes_are_left_out() -> None:
    whole = struct.pack("=IHHII", 20, 16, 0, 0, 0) + b"body"
    assert [m.body for m in messages(whole + whole[:18])] == [b"body"]
    assert list(messages(struct.pack("=IHHII", 4, 16, 0, 0, 0))) == []
    assert attributes(attribute(1, b"abc") + struct.pack("=HH", 9, 2) + b"abc") == {1: b"abc"}
    assert attributes(struct.pack("=HH", 3, 2)) == {}
    assert AddressInfo.parse(struct.pack("=BBBBi", 2, 24, 0, 0, 2)) is None
    assert LinkInfo.parse(link(2, attribute(4, b"\1")).body) == LinkInfo(2, "vnet0", UP | RUNNING)
