"""Advanced Error Reporting of a system: in words, in lspci's words, and while devices move data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
import trio

from drivers.contracts.events import Event, PciErrorHandled
from support.machine import RequireTool
from vnet.cli.tree import link_tree
from vnet.errors import ConfigError
from vnet.link.base import Direction
from vnet.link.wire.errors import TransactionError
from vnet.link.wire.impairments import WireFault, WireRule
from vnet.link.wire.link import WireLink
from vnet.lspci import describe
from vnet.spec import HostSpec, LinkSpec, WireSpec
from vnet.system.config_spaces import take_config_spaces
from vnet.system.log import ENTRIES
from vnet.system.snapshot import take_snapshot
from vnet.system.world import World
from vnet.testing import Options, open_pair
from vnet.testing.blk import BlkOptions, open_blk_pair
from vnet.topology import Topology, check
from vnet.views.link import LinkView
from vnet.views.parse import from_plain
from vnet.views.plain import to_plain

PORT, FUNCTION = "0000:00:01.0", "0000:01:00.0"


def wired(**keys: object) -> LinkSpec:
    return LinkSpec(root="rc", endpoint="ep", wire=WireSpec(**cast("dict[str, Any]", {"seed": 1, **keys})))


def wire_of(world: World) -> WireLink:
    return world.wires["link0"]


@contextmanager
def handled(world: World) -> Iterator[list[PciErrorHandled]]:
    """Collect the errors that the root complex's host handles."""
    taken: list[PciErrorHandled] = []

    def take(event: Event) -> None:
        if isinstance(event, PciErrorHandled):
            taken.append(event)

    with world.events.listen(take):
        yield taken


def shown(world: World) -> str:
    return "\n".join(link_tree("link0", take_snapshot(world).links["link0"]))


async def test_show_and_lspci_tell_of_errors_in_words(require_tool: RequireTool) -> None:
    require_tool("lspci")
    async with open_pair(Options(link=wired())) as pair:
        pair.link.mem_read(Direction.DOWNSTREAM, 1 << 50, 4)
        await trio.sleep(0.1)
        words = shown(pair.world)
        assert "error reporting: none handled, 0 resets of the link" in words
        assert f"{FUNCTION}: device status correctable, unsupported request; correctable advisory non-fatal" in words
        port, function = ("\n".join(describe([image], ["-vv"])) for image in take_config_spaces(pair.world).functions)
        assert f"{PORT} PCI bridge: Texas Instruments Device b00d (rev 01)" in port
        assert "root port on link0" in port
        assert "Bus: primary=00, secondary=01, subordinate=01" in port
        assert "RootCmd: CERptEn+ NFERptEn+ FERptEn+" in port
        assert "DevSta:\tCorrErr+ NonFatalErr- FatalErr- UnsupReq+" in function
        assert "Capabilities: [100 v1] Advanced Error Reporting" in function
        assert "CESta:\tRxErr- BadTLP- BadDLLP- Rollover- Timeout- AdvNonFatalErr+" in function
        view = take_snapshot(pair.world).links["link0"]
        assert from_plain(LinkView, to_plain(view)) == view


async def test_a_link_without_a_wire_or_without_aer_has_no_error_reporting() -> None:
    for spec in (wired(aer=False), LinkSpec(root="rc", endpoint="ep")):
        async with open_pair(Options(link=spec)) as pair:
            assert "error reporting" not in shown(pair.world)
            [function] = take_config_spaces(pair.world).functions
            assert function.image[0x100:0x104] == bytes(4)


def test_digests_without_error_reporting_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"links\.l\.wire\.ecrc = true: must be false without aer"):
        check(Topology({"rc": HostSpec(), "ep": HostSpec()}, {"l": wired(aer=False, ecrc=True)}, {}, {}), "test")


async def test_a_poisoned_read_of_a_device_is_a_non_fatal_error_with_its_header() -> None:
    async with open_blk_pair(BlkOptions(link=wired())) as pair:
        with handled(pair.world) as events:
            wire_of(pair.world).impairments.set([WireRule(WireFault.POISONED, nth={1}, direction=Direction.DOWNSTREAM)])
            await pair.disk.write(0, b"wire" * 1024)
            assert bytes(await pair.disk.read(0, 4096)) == b"wire" * 1024
            await trio.sleep(0.1)
        [event] = events
        assert (event.location, event.severity) == (FUNCTION, "non-fatal")
        assert event.errors == ("poisoned TLP received",)
        assert event.header.startswith("4a00"), "the completion"
        entry = ENTRIES[PciErrorHandled](event)
        assert entry.text == f"{FUNCTION}: non-fatal poisoned TLP received, header {event.header}"
        assert "error reporting: poisoned TLP received 1 handled" in shown(pair.world)


async def test_a_fatal_error_resets_the_link_and_a_disk_goes_on_with_its_data() -> None:
    async with open_blk_pair(BlkOptions(link=wired())) as pair:
        with handled(pair.world) as events:
            wire = wire_of(pair.world)
            await pair.disk.write(0, b"wire" * 1024)
            assert wire.wire is not None
            wire.wire.endpoint.report(TransactionError.MALFORMED, bytes(16))
            assert bytes(await pair.disk.read(0, 4096)) == b"wire" * 1024
            await trio.sleep(0.1)
            assert bytes(await pair.disk.read(0, 4096)) == b"wire" * 1024
        assert [(event.location, event.severity, event.errors) for event in events] == [
            (FUNCTION, "fatal", ("malformed TLP",))
        ]
        assert pair.link.epoch == 2
        assert "1 resets of the link" in shown(pair.world)


async def test_with_digests_no_corrupted_packet_reaches_memory() -> None:
    async with open_blk_pair(BlkOptions(link=wired(ecrc=True, bit_errors=0.001))) as pair:
        link = wire_of(pair.world)
        data = hashlib.shake_128(b"digest").digest(1 << 14)
        await pair.disk.write(0, data)
        with handled(pair.world) as events:
            # Every 50th packet of the device's reads: the read fails, and the request is repeated after a reset.
            link.impairments.set([WireRule(WireFault.CORRUPTED, nth={50}, direction=Direction.DOWNSTREAM)])
            await pair.disk.write(1 << 14, data)
            link.impairments.set(())
            await trio.sleep(0.1)
        assert "ECRC error" in {name for event in events for name in event.errors}
        assert bytes(await pair.disk.read(0, 1 << 14)) == data
        assert bytes(await pair.disk.read(1 << 14, 1 << 14)) == data
