"""Links whose two hosts are joined by a stream: their parts, where they lead, and one line for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from vnet.cli import up
from vnet.errors import ConfigError
from vnet.process_ends import StreamProcess
from vnet.stream.address import Address
from vnet.topology import parse, part_of, places_of
from vnet.topology.part import Place

KEY = "0123456789abcdef"
FILE = """
[hosts.rc]
[hosts.ep]
[links.pcie0]
root = "rc"
endpoint = "ep"
stream = {{ key = "0123456789abcdef" }}
{keys}
[devices.net0]
link = "pcie0"
[devices.blk0]
type = "blk"
link = "pcie0"
function = 1
device = {{ size = 1 }}
"""
TWO_LINKS = FILE + '[links.pcie1]\nroot = "rc"\nendpoint = "ep"\nstream = {{ key = "0123456789abcdef" }}\n'
HERE, THERE = Place(Address("host", 7000), listens=True), Place(Address("host", 7000), listens=False)


def test_each_part_has_the_other_host_behind_the_stream() -> None:
    whole = parse(FILE.format(keys="faults = { lost_doorbells = 0.1 }"))
    root = part_of(whole, "rc", "t", {"pcie0": THERE})
    endpoint = part_of(whole, "ep", "t", {"pcie0": HERE})
    far, near = root.links["pcie0"].endpoint, endpoint.links["pcie0"].root
    assert isinstance(far, StreamProcess)
    assert isinstance(near, StreamProcess)
    assert (far.listens, near.listens) == (False, True)
    assert far.identity == near.identity
    assert dict(far.identity.functions) == {0: "net over pci", 1: "blk over pci"}
    assert str(far) == "stream host:7000"
    assert KEY not in repr(far)
    assert root.links["pcie0"].lossy
    assert endpoint.links["pcie0"].faults is not None
    assert (root.devices["net0"].elsewhere, endpoint.devices["net0"].elsewhere) == ("device", "driver")


def test_a_place_is_of_the_only_stream_or_of_a_named_one() -> None:
    one, two = parse(FILE.format(keys="")), parse(TWO_LINKS.format(keys=""))
    assert places_of(one, "rc", [("", HERE)], "t") == {"pcie0": HERE}
    assert places_of(two, "rc", [("pcie1", HERE), ("pcie0", THERE)], "t") == {"pcie1": HERE, "pcie0": THERE}
    assert places_of(one, "rc", [], "t") == {}


@pytest.mark.parametrize(
    ("file", "host", "given", "why"),
    [
        (FILE, None, [("", HERE)], "--listen = 'host:7000': needs --only HOST"),
        (FILE, "rc", [("pcie7", THERE)], "--connect = 'pcie7=host:7000': must be LINK=ADDRESS, with one of pcie0"),
        (FILE, "rc", [("", HERE), ("", THERE)], "--connect = 'host:7000': link pcie0 has an address already"),
        (TWO_LINKS, "rc", [("", HERE)], "must be LINK=ADDRESS, with one of pcie0, pcie1"),
        (FILE.replace("stream", "vfio_user = '/run/x' #"), "rc", [("", HERE)], "rc has no link with the key stream"),
    ],
)
def test_a_wrong_place_is_one_line(file: str, host: str | None, given: list[tuple[str, Place]], why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        places_of(parse(file.format(keys="")), host, given, "t")
    assert why in str(caught.value)


def test_a_stream_without_a_place_is_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        part_of(parse(FILE.format(keys="")), "rc", "t")
    assert str(caught.value) == "t: links.pcie0.stream: needs its address: --connect or --listen"


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        (
            "generation = 3",
            "links.pcie0.generation = 3: must be absent: packets of a stream take the time that they take",
        ),
        ("wire = {}", "links.pcie0.wire: must be absent: a stream carries the packets"),
        ("vfio_user = '/run/x'", "links.pcie0.stream: must be absent: vfio_user leads to another process already"),
    ],
)
def test_keys_that_do_not_go_with_a_stream_are_refused(keys: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(FILE.format(keys=keys.replace("{", "{{").replace("}", "}}")).replace("{{}}", "{}"), "t")
    assert str(caught.value) == f"t: {why}"


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        parse(FILE.format(keys="").replace(KEY, "secret"), "t")
    assert "links.pcie0.stream.key" in str(caught.value)
    assert "must be 16 to 200 characters" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--connect", "nowhere"), "'nowhere': must be HOST:PORT, or the path of a unix socket"),
        (("--listen", "pcie0=::1:7"), "must have brackets around an IPv6 address"),
        (("--only", "ep", "--listen", "host:7", "--sandbox", "on"), "--sandbox on forbids TCP to host:7"),
    ],
)
def test_the_command_explains_what_an_address_must_be(options: tuple[str, ...], why: str, tmp_path: Path) -> None:
    file = tmp_path / "two.toml"
    file.write_text(FILE.format(keys=""))
    done = CliRunner().invoke(up.command, [str(file), *options])
    assert done.exit_code
    assert why in " ".join(done.output.replace("│", " ").split())
