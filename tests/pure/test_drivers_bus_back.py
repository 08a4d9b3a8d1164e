"""The base of back halves: which feature bits its device may have, and hooks that a transport may leave out."""

from __future__ import annotations

from typing import ClassVar

import pytest

from drivers.bus.back import UNCLASSIFIED, VIRTIO_VENDOR, Identity, VhostBack
from drivers.bus.device_queue import DeviceQueue
from rings.features import RingFeature, mask
from rings.formats import ON_REQUEST, RING_FEATURES
from rings.memory import Memory
from rings.status import Status

PACKED = mask((RingFeature.RING_PACKED,))
IN_ORDER = mask((RingFeature.IN_ORDER,))
OWN = 1 << 40


class Back(VhostBack):
    """A back half on no carrier, with a feature bit of its own."""

    extra_features: ClassVar[int] = OWN

    def bind(self) -> None: ...

    def unbind(self) -> None: ...

    def memory(self) -> Memory:
        raise NotImplementedError

    def call(self, queue: DeviceQueue) -> None: ...

    def config_changed(self) -> None: ...


@pytest.mark.parametrize(
    ("identity", "left_out"),
    [
        (Identity(1), PACKED | ON_REQUEST),
        (Identity(1, packed=True), ON_REQUEST),
        (Identity(1, features_on=IN_ORDER), PACKED | ON_REQUEST & ~IN_ORDER),
        (Identity(1, packed=True, features_on=ON_REQUEST), 0),
    ],
)
def test_packed_rings_and_some_features_are_offered_on_request(identity: Identity, left_out: int) -> None:
    assert identity.ring_features == RING_FEATURES & ~left_out
    assert Back(identity).features == (RING_FEATURES | OWN) & ~left_out


def test_a_request_does_not_add_what_a_transport_cannot_do() -> None:
    assert Identity(1, packed=True, features_on=ON_REQUEST).offered(OWN) == OWN


def test_a_device_has_the_ids_and_the_name_of_its_back_half() -> None:
    back = Back(Identity(4, "rng0"))
    device = back.device
    assert (device.device_id, device.vendor_id, device.name) == (4, VIRTIO_VENDOR, "rng0")
    assert Back(Identity(4), vendor_id=0x1234).device.vendor_id == 0x1234
    assert Identity(4).class_code == UNCLASSIFIED


async def test_a_transport_without_registers_tasks_or_a_slow_link_needs_no_hooks() -> None:
    back = Back(Identity(4))
    await back.serve()
    await back.settle()
    back.status_changed(Status.ACKNOWLEDGE)
    back.changed()
    assert (back.lossy, back.meter, back.registers()) == (False, None, {})


def test_a_back_half_that_forgets_a_method_does_not_exist() -> None:
    class Forgetful(Back):
        call = VhostBack.call

    with pytest.raises(TypeError, match="call"):
        Forgetful(Identity(4))
