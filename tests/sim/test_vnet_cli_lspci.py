"""``vnet lspci`` shows what lspci decodes from the configuration spaces that the endpoints have."""

from __future__ import annotations

import json
import re
from pathlib import Path

import attrs
import pytest
import trio
from click.testing import CliRunner, Result

from support.machine import RequireTool
from support.paths import ROOT
from vnet.cli import lspci
from vnet.lspci import annotate
from vnet.system.config_spaces import take_config_spaces
from vnet.system.world import World, open_world
from vnet.testing import Options, open_pair
from vnet.topology import parse
from vnet.views.parse import from_plain
from vnet.views.pci import ConfigImage, ConfigImages
from vnet.views.plain import to_plain

NET = """
[devices.{name}]
type = "net"
transport = "{transport}"
{place}
driver = {{ kind = "memory" }}
device = {{ kind = "memory" }}
"""
TWO_LINKS = (
    """
[hosts.rc]
[hosts.ep]
[links.pcie0]
root = "rc"
endpoint = "ep"
[links.pcie1]
root = "ep"
endpoint = "rc"
"""
    + NET.format(name="net0", transport="pci", place='link = "pcie0"')
    + NET.format(name="net1", transport="epf_mailbox", place='link = "pcie0"\nfunction = 3')
    + NET.format(name="net2", transport="pci", place='link = "pcie1"')
)
TITLE = "0000:01:00.0 Ethernet controller: Red Hat, Inc. Virtio 1.0 network device (rev 01), net0 on pcie0"
DATA = 0xCC + 16
"""Offset of the data of the PCI configuration access capability, a read of which accesses a BAR."""


async def images(world: World) -> ConfigImages:
    """The configuration spaces as a client receives them."""
    taken = take_config_spaces(world)
    received = from_plain(ConfigImages, json.loads(json.dumps(to_plain(taken))))
    assert received == taken
    return received


def shown(monkeypatch: pytest.MonkeyPatch, answer: ConfigImages, *args: str) -> Result:
    monkeypatch.setattr("vnet.cli.query.ask", lambda name, command, arguments: to_plain(answer))
    return CliRunner().invoke(lspci.command, list(args))


@pytest.mark.parametrize("transport", ["pci", "epf_mailbox", "ntb"])
async def test_the_bytes_are_those_that_the_driver_reads_over_the_link(transport: str) -> None:
    async with open_pair(Options(queue_size=16, transport=transport)) as pair:
        for each in (await images(pair.world)).functions:
            host, link = pair.world.hosts[each.host], pair.world.links[each.link]
            [handle] = [handle for handle in host.rc.functions if handle.name == each.name]
            assert [(bar.index, bar.address, bar.size) for bar in handle.bars] == [
                (bar.bar, bar.address, bar.size) for bar in each.bars
            ]
            for at in range(0, len(each.image), 4):
                if at != DATA:
                    assert int.from_bytes(each.image[at : at + 4], "little") == link.config_read(handle.number, at, 4)
            assert each.owner == ("ntb0" if transport == "ntb" else "net0")


async def test_a_function_is_also_there_while_its_link_is_down(
    monkeypatch: pytest.MonkeyPatch, require_tool: RequireTool
) -> None:
    require_tool("lspci")
    async with open_world(parse(TWO_LINKS)) as world:
        await world.wait_up()
        world.links["pcie0"].bring_down()
        down = await images(world)
    output = shown(monkeypatch, down, "-v", "--link", "pcie0").output
    assert f"{TITLE} (down)" in output
    assert re.search(r"Memory at <\w+> \(64-bit, non-prefetchable\) \[disabled\] \[size=16K\]", output)


async def test_lspci_decodes_each_function_and_we_add_what_a_dump_lacks(
    monkeypatch: pytest.MonkeyPatch, require_tool: RequireTool
) -> None:
    require_tool("lspci")
    async with open_world(parse(TWO_LINKS)) as world:
        await world.wait_up()
        taken = await images(world)
        bars = {each.name: each.bars for each in taken.functions if each.host == "rc"}
    every = shown(monkeypatch, taken).output.splitlines()
    assert [line.rpartition(", ")[2] for line in every] == [
        *("host ep", "net2 on pcie1"),
        *("host rc", "net0 on pcie0", "net1 on pcie0"),
    ]
    lines = shown(monkeypatch, taken, "-vv", "--host", "rc").output.splitlines()
    assert lines[0] == TITLE
    assert "\tCapabilities: [40] Express (v2) Endpoint, MSI 00" in lines
    assert any(re.fullmatch(r"\tCapabilities: \[7c\] MSI-X: Enable\+ Count=\d+ Masked-", line) for line in lines)
    names = [line.rpartition("VirtIO: ")[2] for line in lines if "VirtIO" in line]
    assert names == ["CommonCfg", "ISR", "DeviceCfg", "Notify", "PciCfg"]
    assert "\t\tBAR=0 offset=00003000 size=00001000 multiplier=00000004" in lines
    regions = [re.findall(r"Region (\d): Memory at (\w+) .*\[size=(\w+)\]", line) for line in lines]
    assert [(int(bar), int(at, 16)) for region in regions for bar, at, _ in region] == [
        (bar.bar, bar.address) for name in sorted(bars) for bar in bars[name]
    ]
    assert regions[6] == [("0", "1000000000", "16K")]
    assert not any("unassigned" in line or "unknown" in line for line in lines)
    assert [line[:4] for line in shown(monkeypatch, taken, "-n", "--link", "pcie1").output.splitlines()] == ["0000"]
    assert "[1af4:1041]" in shown(monkeypatch, taken, "-nn").output
    assert r"\-[0000:01]-+-00.0" in shown(monkeypatch, taken, "-t", "--host", "rc").output


async def test_the_hex_dump_is_read_by_lspci(
    monkeypatch: pytest.MonkeyPatch, require_tool: RequireTool, tmp_path: Path
) -> None:
    require_tool("lspci")
    async with open_world(parse(TWO_LINKS)) as world:
        await world.wait_up()
        taken = await images(world)
    file = tmp_path / "dump"
    file.write_text(shown(monkeypatch, taken, "-x", "--host", "rc").output, encoding="utf-8")
    done = await trio.run_process(["lspci", "-F", str(file), "-D", "-xxxx"], capture_stdout=True)
    rows = [line for line in done.stdout.decode().splitlines() if re.match(r"[0-9a-f]+: ", line)]
    own = [each.image for each in taken.functions if each.host == "rc"]
    assert bytes.fromhex("".join(line.partition(": ")[2] for line in rows)) == b"".join(own)


async def test_the_functions_of_both_hosts_of_an_ntb(
    monkeypatch: pytest.MonkeyPatch, require_tool: RequireTool
) -> None:
    require_tool("lspci")
    text = (ROOT / "examples" / "topologies" / "ntb.toml").read_text(encoding="utf-8").replace('"tun"', '"memory"')
    async with open_world(parse(text)) as world:
        await world.wait_up()
        lines = shown(monkeypatch, await images(world)).output.splitlines()
    assert [line.rpartition(", ")[2] for line in lines] == [
        *("host host1", "ntb0 on pcie0"),
        *("host host2", "ntb0 on pcie1"),
    ]


def test_structures_without_a_name_in_lspci_have_ours_or_their_number() -> None:
    image = bytearray(4096)
    image[0x43], image[0x53] = 8, 77
    function = attrs.evolve(FUNCTION, image=bytes(image))
    lines = [
        "0000:01:00.0 Device",
        "\tCapabilities: [40] Vendor Specific Information: VirtIO: <unknown>",
        "\tCapabilities: [50] Vendor Specific Information: VirtIO: <unknown>",
        "\tKernel modules: virtio_pci",
    ]
    assert list(annotate(lines, [function])) == [
        "0000:01:00.0 Device, no device on pcie0",
        "\tCapabilities: [40] Vendor Specific Information: VirtIO: SharedMemory",
        "\tCapabilities: [50] Vendor Specific Information: VirtIO: type 77",
    ]


FUNCTION = ConfigImage("rc", "0000:01:00.0", "pcie0", True, "", (), bytes(4096))


@pytest.mark.parametrize(
    ("functions", "args", "line"),
    [
        ((FUNCTION,), ("--link", "moon"), "link 'moon': must be one of pcie0"),
        ((FUNCTION,), ("--host", "moon"), "host 'moon': must be one of rc"),
        ((), (), "vnet has no PCI function: none of its devices is behind a link"),
    ],
)
def test_an_unknown_name_is_one_line_with_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, functions: tuple[ConfigImage, ...], args: tuple[str, ...], line: str
) -> None:
    done = shown(monkeypatch, ConfigImages(functions), *args)
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", f"vnet: {line}\n")


def test_without_lspci_one_line_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = shown(monkeypatch, ConfigImages((FUNCTION,)))
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr == "vnet: not installed: lspci; try: sudo apt-get install -y pciutils\n"
    assert shown(monkeypatch, ConfigImages((FUNCTION,)), "-x").output.startswith("0000:01:00.0 function\n00: 00 00")


def test_a_failure_of_lspci_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "lspci"
    program.write_text("#!/bin/sh\necho no such option >&2\nexit 1\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    done = shown(monkeypatch, ConfigImages((FUNCTION,)))
    assert (done.exit_code, done.stdout, done.stderr) == (1, "", "vnet: lspci failed: no such option\n")
