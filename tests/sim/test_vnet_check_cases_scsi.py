"""Cases of SCSI hosts: this project's host passes them, and hosts with a fault get their verdict."""

from __future__ import annotations

import struct

import pytest

from drivers.devices.scsi import SCSI, LogicalUnit, Lun, ScsiDomain, ScsiPlug, UnitIdentity
from rings.ids import DeviceId
from support.rigs.checked import check_own, check_watched, unlike
from vnet.check.driver.back import WatchingBack
from vnet.check.driver.clauses import Observations
from vnet.check.driver.devices import WatchedDevice
from vnet.check.driver.ring import Chain
from vnet.check.kinds.scsi import CONTROL, INQUIRY, REQUEST
from vnet.check.verdicts import Verdict
from vnet.ports.disk.store import MemoryStore


class BadHost(WatchedDevice):
    """A host that answers an honest INQUIRY, and every other command with the same response."""

    rings = 3

    def __init__(self, seen: Observations, response: tuple[int, int, int], config: tuple[int, ...]) -> None:
        """``response`` is code, status and residual; ``config`` begins with sense_size."""
        super().__init__(seen)
        self.response = response
        self.config = bytes(20) + struct.pack("<IIHHI", *config)

    def serve(self, ring: int, chain: Chain) -> int | None:
        honest = ring == REQUEST and chain.readable[1] == 0 and chain.readable[19:25] == INQUIRY and chain.room == 144
        code, status, residual = (0, 0, 0) if honest else self.response
        if ring == CONTROL:
            return chain.fill(bytes((code,)))
        return chain.fill(struct.pack("<IIHBB", 0, residual, 0, status, code).ljust(chain.room, b"\0"))


async def test_this_projects_host_passes() -> None:
    unit = LogicalUnit(MemoryStore(1 << 20), UnitIdentity("serial-1"))
    plug = ScsiPlug(ScsiDomain({Lun(0, 0): unit}))
    results = await check_own(SCSI.vhost_driver(lambda device: plug), DeviceId.SCSI, "scsi")
    assert unlike(results, Verdict.PASS) == {}
    assert results["SCSI-DEV-7"].seen == "476 of 512 bytes"
    assert results["SCSI-DEV-12"].seen == "BAD_TARGET"


@pytest.mark.parametrize(
    ("response", "config", "case", "verdict", "words"),
    [
        ((0, 0, 0), (96, 32, 0, 255, 16383), "SCSI-DEV-12", Verdict.FAIL, "responded OK"),
        ((0, 0, 0), (96, 32, 0, 255, 16383), "SCSI-DEV-8", Verdict.FAIL, "responded OK with status 0x0"),
        ((9, 2, 0), (96, 32, 0, 255, 16383), "SCSI-DEV-8", Verdict.FAIL, "responded FAILURE with status 0x2"),
        ((0, 0, 512), (96, 32, 0, 255, 16383), "SCSI-DEV-7", Verdict.FAIL, "residual 512 of 512 bytes"),
        ((0, 0, 0), (96, 32, 0, 255, 16383), "SCSI-DEV-10", Verdict.FAIL, "for a READ into 16 bytes"),
        ((1, 0, 0), (96, 32, 0, 255, 16383), "SCSI-DEV-10", Verdict.PASS, "OVERRUN, status 0x0"),
        ((255, 0, 0), (96, 32, 0, 255, 16383), "K02.zero", Verdict.FAIL, "gave the request back without a response"),
        ((255, 0, 0), (96, 32, 0, 255, 16383), "K03.abort", Verdict.FAIL, "gave the command back without a response"),
        ((0, 0, 0), (96, 16, 0, 255, 16383), "SCSI-DEV-2", Verdict.FAIL, "sense_size is 96, cdb_size 16"),
        ((0, 0, 0), (96, 32, 0, 256, 16383), "SCSI-DEV-3", Verdict.WARN, "max_target 256"),
        (
            (0, 0, 0),
            (96, 32, 1, 255, 16384),
            "SCSI-DEV-3",
            Verdict.WARN,
            "max_channel 1, max_target 255, max_lun 16384",
        ),
    ],
)
async def test_a_host_with_a_fault_gets_its_verdict(
    response: tuple[int, int, int], config: tuple[int, ...], case: str, verdict: Verdict, words: str
) -> None:
    results = await check_watched("scsi", lambda seen: WatchingBack(BadHost(seen, response, config), seen), case)
    assert results[case].verdict is verdict, results[case]
    assert words in results[case].seen
