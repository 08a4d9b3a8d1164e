"""The record of a block device: its sockets and files, and the device that a simulation has instead."""

from __future__ import annotations

from pathlib import Path

from vnet.ends.blk import BlkSpec, DiskSpec, DiskStoreSpec, nbd_uri

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
