"""Topology files with SCSI hosts: logical units are read whole or refused in one line."""

from __future__ import annotations

import pytest

from drivers.devices.scsi import Lun
from support.topologies import TWO_HOSTS
from vnet.ends.scsi import LunSpec, ScsiSpec
from vnet.errors import ConfigError
from vnet.topology import parse

BASE = (
    TWO_HOSTS
    + """\
[devices.scsi0]
type = "scsi"
link = "pcie0"
"""
)
LUNS = "devices.scsi0.device.luns"


def spec(text: str) -> ScsiSpec:
    actual = parse(BASE + text).devices["scsi0"]
    assert isinstance(actual, ScsiSpec)
    return actual


def luns(*units: str) -> str:
    return f"device = {{ luns = [{', '.join(f'{{ {unit} }}' for unit in units)}] }}\n"


def test_a_missing_key_has_a_default() -> None:
    actual = spec("")
    assert (actual.queue_size, actual.queues, actual.driver.buffers, actual.device.workers) == (256, 1, 32, 4)
    assert actual.device.luns == (LunSpec(size=64),)
    assert actual.device.luns[0].address == Lun(0, 0)


def test_units_are_a_list_and_each_has_a_place() -> None:
    actual = spec(luns("size = 1", 'target = 3, lun = 300, store = "file", path = "a.img", serial = "s"'))
    assert actual.device.luns == (LunSpec(size=1), LunSpec("file", "a.img", serial="s", target=3, lun=300))
    assert spec("device = { luns = [] }").device.luns == ()


@pytest.mark.parametrize(
    ("text", "where", "why"),
    [
        (luns("size = 1", "size = 1"), f"{LUNS}[1].lun", "already used by another unit of target 0"),
        (luns(""), f"{LUNS}[0].size", "must be given for a memory store"),
        (luns('store = "file"'), f"{LUNS}[0].path", "must be given for a file store"),
        (luns('size = 1, path = "x"'), f"{LUNS}[0].path", "must be absent for a memory store"),
        (luns("size = 1, target = 256"), f"{LUNS}[0].target", "must be between 0 and 255"),
        (luns("size = 1, lun = 16384"), f"{LUNS}[0].lun", "must be between 0 and 16383"),
        (luns('size = 1, serial = ""'), f"{LUNS}[0].serial", "1 to 64"),
        (luns("size = 1, block_size = 513"), f"{LUNS}[0].block_size", "a power of two"),
        (luns("size = 1, workers = 4"), f"{LUNS}[0].workers", "unknown key"),
        (
            "device = { max_target = 2, luns = [{ size = 1, target = 3 }] }",
            f"{LUNS}[0].target",
            r"must be at most 2 \(max_target\)",
        ),
        ("queues = 0", "devices.scsi0.queues", "must be between 1 and 16"),
        ('mode = "mediated"', "devices.scsi0.mode", "no peer driver"),
        ('features_off = ["T10_PI"]', "devices.scsi0.features_off", "unknown feature T10_PI"),
    ],
)
def test_an_impossible_value_is_refused_in_one_line(text: str, where: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why) as caught:
        spec(text)
    assert where in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_two_units_write_to_one_file() -> None:
    unit = 'store = "file", path = "a.img"'
    with pytest.raises(ConfigError, match="already used by"):
        spec(luns(unit, f"lun = 1, {unit}"))
    spec(luns(f"read_only = true, {unit}", f"lun = 1, read_only = true, {unit}"))
