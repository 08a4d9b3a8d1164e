"""Network devices that are served to drivers in other processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from drivers.devices.net.layout import CONTROLLED, NetFeature
from vnet.errors import ConfigError
from vnet.system.exports import DeviceExport, open_exports
from vnet.topology import parse_device


@pytest.mark.parametrize("vfio_user", [True, False], ids=["vfio-user", "vhost-user"])
async def test_a_served_function_has_a_control_queue_which_a_front_end_keeps_to_itself(
    tmp_path: Path, vfio_user: bool
) -> None:
    spec = parse_device({"type": "net", "queue_pairs": 2, "device": {"kind": "memory"}}, "test")
    export = DeviceExport(spec, tmp_path / "s", vfio_user=vfio_user)
    async with open_exports({"net0": export}) as served:
        device = served["net0"].back.device
        commanded = CONTROLLED & ~(1 << NetFeature.MQ) & spec.features
        assert device.device_features & commanded == (commanded if vfio_user else 0)
        assert device.device_features >> NetFeature.MQ & 1
        assert len(device.queues) == 4 + vfio_user


async def test_a_front_end_s_device_can_not_steer_by_hash(tmp_path: Path) -> None:
    keys = {"type": "net", "queue_pairs": 2, "features_on": ["IN_ORDER", "rss"], "device": {"kind": "memory"}}
    spec = parse_device(keys, "test")
    with pytest.raises(ConfigError, match="must be without rss: the front end has the control queue"):
        async with open_exports({"net0": DeviceExport(spec, tmp_path / "s")}):
            raise AssertionError
    export = DeviceExport(spec, tmp_path / "s", vfio_user=True)
    async with open_exports({"net0": export}) as served:
        assert served["net0"].back.device.device_features >> NetFeature.RSS & 1
