"""Cases of every carrier against this project's disk as a PCI function: rings and registers are as they must be."""

from __future__ import annotations

from drivers.devices.blk import BLK, BlkPlug
from rings.ids import DeviceId
from support.rigs.checked import check_function, unlike
from vnet.check.verdicts import Verdict
from vnet.ports.disk.store import MemoryStore

ABSENT = "not offered", "PACKED is offered", "the function has no", "at most 256", "at least 2 buffers", "only over"
"""Words of the reasons for which cases are skipped here."""


async def test_a_disk_of_ours_breaks_nothing_over_vfio_user() -> None:
    plug = BlkPlug(MemoryStore(1 << 20))
    words = "pci", "registers", "honest", "R08", "R13", "R14", "I02", "B01", "packed"
    results = await check_function(BLK.vhost_driver(lambda device: plug), DeviceId.BLOCK, *words, packed=True)
    bad = unlike(results, Verdict.PASS)
    assert {ident: seen for ident, seen in bad.items() if not any(one in seen for one in ABSENT)} == {}
    assert sum(one.verdict is Verdict.PASS for one in results.values()) > 130
