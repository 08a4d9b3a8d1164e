"""The record of a block device: its sockets and files, and the device that a simulation has instead."""

from __future__ import annotations

from pathlib import Path

import pytest

from vnet.ends.blk import BlkSpec, DiskSpec, DiskStoreSpec, nbd_uri
from vnet.errors import ConfigError
from vnet.topology import parse

SPEC = BlkSpec("blk", driver=DiskSpec(nbd="/disk.sock"), device=DiskStoreSpec("file", path="/disk.img", size=8))


def test_sockets_and_files_are_claimed() -> None:
    assert list(SPEC.paths()) == [Path("/disk.sock")]
    assert dict(SPEC.claims(("rc", "ep"))) == {
        ("driver", "nbd"): ("file", "/disk.sock"),
        ("device", "path"): ("file", "/disk.img"),
    }


def test_a_simulated_device_has_neither() -> None:
    simulated = SPEC.in_memory()
    assert not list(simulated.paths())
    assert not list(simulated.claims(("rc", "ep")))
    assert (simulated.device.size, simulated.driver.buffers) == (8, SPEC.driver.buffers)


def test_the_uri_of_an_export_is_quoted() -> None:
    assert nbd_uri("/a b.sock", "disk0") == "nbd+unix:///disk0?socket=/a%20b.sock"


@pytest.mark.parametrize("value", ["[1, 2]", "[4, 0, 0]", "[1, 12, 0]", "[1, 0, -1]", "[1, 2, 3, 4]"])
def test_wear_that_can_not_be_is_refused(value: str) -> None:
    text = f"""
[hosts.rc]
[devices.disk0]
type = "blk"
transport = "mmio"
host = "rc"
device = {{ size = 1, lifetime = {value} }}
"""
    with pytest.raises(ConfigError, match=r"lifetime = .*: must be the state of the reserve \(0 to 3\) and the wear"):
        parse(text)
