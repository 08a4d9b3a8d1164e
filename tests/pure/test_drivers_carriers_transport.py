"""A transport's record: what its doorbells are, and what its back half gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import attrs
import pytest

from drivers.bus.back import Identity, VhostBack
from drivers.bus.model import MatchId
from drivers.carriers.ntb import NtbBus
from drivers.carriers.options import BackEndSocket, SocketOptions, TransportOptions
from drivers.carriers.transport import LinkTransport, NtbTransport, PlatformTransport, SocketTransport, Transport
from drivers.carriers.vhost_user import SocketBack
from drivers.contracts.hw import Epc, PlatformSlot
from drivers.contracts.ipc import Ipc
from drivers.fields import FieldError
from drivers.transports.mmio import MMIO
from drivers.transports.ntb import NTB
from drivers.transports.pci import PCI
from drivers.transports.vhost_user import VHOST_USER
from vnet.transports import TRANSPORTS

ENTROPY = Identity(4, "rng0")


@attrs.frozen
class PaintOptions(TransportOptions):
    colour: str = "blue"


class Carrier:
    """A site that gives each back half a carrier made of words."""

    def on_link(self, make: Callable[[Epc, int], VhostBack]) -> object:
        return make(cast(Epc, "epc"), 3)

    def on_ntb(self, make: Callable[[NtbBus, str], VhostBack]) -> object:
        return make(cast(NtbBus, "bus"), "ntb0")

    def on_platform(self, match_id: MatchId, make: Callable[[PlatformSlot], VhostBack]) -> object:
        return make(cast(PlatformSlot, match_id))

    def on_socket(self, peer: BackEndSocket | None, make: Callable[[Ipc], SocketBack]) -> object:
        return peer or make(cast(Ipc, "ipc"))


def given(*args: object, **options: object) -> Any:
    return args, options


MADE: list[tuple[Transport, tuple[object, ...]]] = [
    (LinkTransport(PCI.front, given, options=PaintOptions), ("epc", 3, ENTROPY)),
    (NtbTransport(NTB.front, given, options=PaintOptions), ("bus", "ntb0", ENTROPY)),
    (PlatformTransport(MMIO.front, given, options=PaintOptions), (MMIO.front.id_table[0], ENTROPY)),
]


@pytest.mark.parametrize(("transport", "args"), MADE)
def test_a_back_half_gets_its_carrier_its_identity_and_its_options(
    transport: Transport, args: tuple[object, ...]
) -> None:
    assert transport.place(Carrier(), ENTROPY, PaintOptions("red")) == (args, {"colour": "red"})


@attrs.frozen
class PaintedSocket(SocketOptions):
    colour: str = "blue"


def test_the_back_half_at_a_socket_gets_the_options_that_do_not_name_the_socket() -> None:
    transport = SocketTransport(VHOST_USER.front, given, options=PaintedSocket)
    assert transport.place(Carrier(), ENTROPY, PaintedSocket(colour="red")) == (("ipc", ENTROPY), {"colour": "red"})


def test_a_device_in_another_process_has_no_back_half_here() -> None:
    transport = SocketTransport(VHOST_USER.front, given, options=SocketOptions)
    assert transport.place(Carrier(), ENTROPY, SocketOptions()) == (("ipc", ENTROPY), {})
    assert transport.place(Carrier(), ENTROPY, SocketOptions("/tmp/x", 7)) == BackEndSocket("/tmp/x", 7)
    with pytest.raises(FieldError, match="peer_uid = 7: must be absent without socket"):
        SocketOptions(peer_uid=7)


@pytest.mark.parametrize("name", TRANSPORTS)
def test_doorbells_are_the_registers_that_people_know_by_that_name(name: str) -> None:
    transport, count = TRANSPORTS[name], 0
    for bar in range(6):
        for offset in range(0x5000):
            shown = transport.register_name(bar, offset) or ""
            named = shown.startswith("notify[") or shown == "queue_notify"
            assert transport.is_notify(bar, offset) is named or offset >= 0x4000, (bar, offset)
            count += transport.is_notify(bar, offset)
    assert bool(count) == (name != "vhost_user")


@pytest.mark.parametrize("name", ["pci", "epf_mailbox", "ntb", "mmio"])
def test_a_doorbell_tells_its_queue_by_its_register_or_by_the_value(name: str) -> None:
    transport = TRANSPORTS[name]
    [bells] = transport.doorbells
    for queue in (0, 1, 5):
        offset = bells.start + queue * bells.step
        assert transport.notified_queue(bells.bar, offset, queue) == queue
        shown = f"notify[{queue}]" if bells.step else "queue_notify"
        assert transport.register_name(bells.bar, offset) == shown
    assert transport.notified_queue(bells.bar, bells.end, 0) is None
