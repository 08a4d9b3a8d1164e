"""A device type: one record that makes the drivers of its two sides."""

from __future__ import annotations

from typing import Any, cast

import pytest

from drivers.bus.back import UNCLASSIFIED
from drivers.bus.model import MatchId
from drivers.bus.vhost import VhostBound, VhostDevice
from drivers.bus.virtio import ConfigOps, VirtioBound, VirtioDevice
from drivers.devices.blk import BLK
from drivers.devices.net import NET
from drivers.devices.rpmsg import RPMSG
from drivers.devices.scsi import SCSI
from drivers.errors import ProbeDeferred
from drivers.virtio_type import Side, VirtioType
from rings.features import EMPTY_TABLE, RingFeature
from rings.formats import RING_FEATURES


class Settings:
    features = RING_FEATURES


class BoundDriver(VirtioBound[Settings]):
    async def set_up(self) -> None: ...

    async def run(self) -> None: ...


class BoundDevice(VhostBound[str]):
    def offer(self) -> None:
        self.device.offer(EMPTY_TABLE, RING_FEATURES, [], self.plug.encode())

    async def run(self) -> None: ...


CLOCK = VirtioType(
    17,
    EMPTY_TABLE,
    RING_FEATURES,
    driver=Side("virtio_clock", BoundDriver),
    device=Side("vhost_clock", BoundDevice, "clock"),
)
VIRTIO = VirtioDevice(17, 0, cast(ConfigOps, None), "here")


def test_either_side_matches_devices_of_its_id_and_is_bound_with_their_settings() -> None:
    settings = Settings()
    driver = CLOCK.virtio_driver({VIRTIO: settings}.get)
    assert (driver.name, list(driver.id_table), driver.table) == ("virtio_clock", [MatchId(17)], EMPTY_TABLE)
    bound = driver.bind(VIRTIO)
    assert isinstance(bound, BoundDriver)
    assert (bound.device, bound.settings, bound.features()) == (VIRTIO, settings, RING_FEATURES)
    vhost = VhostDevice(17, 0, cast(Any, None), "clock0")
    device = CLOCK.vhost_driver({vhost: "noon"}.get)
    assert (device.name, list(device.id_table)) == ("vhost_clock", [MatchId(17)])
    assert isinstance(device.bind(vhost), BoundDevice)


def test_a_device_without_settings_is_deferred_and_the_reason_says_what_is_missing() -> None:
    with pytest.raises(ProbeDeferred, match=": no user yet"):
        CLOCK.virtio_driver(lambda device: None).bind(VIRTIO)
    with pytest.raises(ProbeDeferred, match="clock0: no clock yet"):
        CLOCK.vhost_driver(lambda device: None).bind(VhostDevice(17, 0, cast(Any, None), "clock0"))


def test_a_forgotten_method_is_an_error_as_soon_as_a_device_is_bound() -> None:
    class Forgetful(VirtioBound[Settings]):
        async def run(self) -> None: ...

    with pytest.raises(TypeError, match="set_up"):
        Forgetful(VIRTIO, Settings())  # type: ignore[abstract]


async def test_hooks_that_a_type_does_not_need_do_nothing() -> None:
    bound = BoundDriver(VIRTIO, Settings())
    await bound.config_changed()
    bound.close()
    device = BoundDevice(VhostDevice(17, 0, cast(Any, None)), "noon")
    device.config_written(0, b"\0")
    await device.close()


def test_every_feature_but_version_1_may_be_switched_off() -> None:
    assert CLOCK.switchable == RING_FEATURES & ~(1 << RingFeature.VERSION_1)


def test_pci_class_codes() -> None:
    codes = [kind.class_code for kind in (NET, BLK, SCSI, RPMSG)]
    assert codes == [0x020000, 0x018000, 0x010000, UNCLASSIFIED]
