"""Topology files with rpmsg devices: channels are read whole or refused in one line."""

from __future__ import annotations

import pytest

from support.topologies import TWO_HOSTS
from vnet.ends.rpmsg import SURFACES, ChannelSpec, RpmsgSpec
from vnet.errors import ConfigError
from vnet.topology import parse

BASE = (
    TWO_HOSTS
    + """\
[devices.rpmsg0]
type = "rpmsg"
link = "pcie0"
"""
)
DEVICE = "devices.rpmsg0"
CHANNELS = "devices.rpmsg0.driver.channels"


def spec(text: str) -> RpmsgSpec:
    actual = parse(BASE + text).devices["rpmsg0"]
    assert isinstance(actual, RpmsgSpec)
    return actual


def test_a_missing_key_has_a_default() -> None:
    actual = spec("")
    assert (actual.queue_size, actual.to_driver, actual.to_device) == (256, 512, 512)
    assert actual.driver.channels == actual.device.channels == ()


def test_channels_are_lists_at_either_end() -> None:
    actual = spec(
        'driver = { channels = [{ name = "a" }, { name = "b", surface = "pty", path = "b.tty" }] }\n'
        'device = { channels = [{ name = "a", surface = "echo", addr = 7, inbox = 3 }] }\n'
    )
    assert actual.driver.channels == (ChannelSpec("a"), ChannelSpec("b", surface="pty", path="b.tty"))
    assert actual.device.channels == (ChannelSpec("a", surface="echo", addr=7, inbox=3),)


def test_a_channel_with_a_path_shows_how_to_use_it() -> None:
    actual = spec(
        'driver = { channels = [{ name = "a" }, { name = "b", surface = "pty", path = "/run/b.tty" }] }\n'
        'device = { channels = [{ name = "c", surface = "socket", path = "/run/c" }] }\n'
    )
    hints = list(actual.hints("vnet", "rpmsg0", ("rc", "ep")))
    assert hints[0] == "screen /run/b.tty    # rpmsg0, b on rc"
    assert "echo hello > /run/b.tty    # rpmsg0, b on rc" in hints
    assert hints[-1].endswith("/run/c,type=5    # rpmsg0, c on ep")


def channel(text: str, *others: str) -> str:
    return f"driver = {{ channels = [{', '.join(f'{{ {part} }}' for part in (text, *others))}] }}\n"


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        ("to_driver = 59", f"{DEVICE}.to_driver = 59: must be between 60 and 65551 (bytes)"),
        ("to_device = 65552", f"{DEVICE}.to_device = 65552: must be between 60 and 65551 (bytes)"),
        ("mtu = 1500", f"{DEVICE}.mtu = 1500: unknown key; known are "),
        ("features_off = ['FROB']", f"{DEVICE}.features_off = ['FROB']: unknown feature FROB; known are NS, "),
        (
            "local_to_driver = 512",
            f"{DEVICE}.local_to_driver = 512: requires mode = 'mediated': only there is a local driver",
        ),
        (channel("surface = 'echo'"), f"{CHANNELS}[0].name: must be given"),
        (channel(f"name = '{'x' * 32}'"), f"{CHANNELS}[0].name = '{'x' * 32}': must be 1 to 31 printable ASCII"),
        (channel("name = 'a', surface = 'tty'"), f"{CHANNELS}[0].surface = 'tty': must be one of none, echo, pty, "),
        (channel("name = 'a', surface = 'pty'"), f"{CHANNELS}[0].path: must be given for surface pty"),
        (channel("name = 'a', path = 'a'"), f"{CHANNELS}[0].path = 'a': must be absent for surface none"),
        (channel("name = 'a', addr = 53"), f"{CHANNELS}[0].addr = 53: must be a 32-bit address other than 53"),
        (channel("name = 'a', inbox = 0"), f"{CHANNELS}[0].inbox = 0: must be between 1 and 65536"),
        (
            channel("name = 'a', addr = 7", "name = 'b', addr = 7"),
            f"{CHANNELS}[1].addr = 7: already used by another channel of this end",
        ),
        (
            channel("name = 'a', surface = 'pty', path = 'x'", "name = 'b', surface = 'socket', path = './x'"),
            f"{CHANNELS}[1].path = ",
        ),
    ],
)
def test_a_mistake_is_reported_in_one_line(extra: str, line: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(BASE + extra, "t.toml")
    assert str(caught.value).startswith(f"t.toml: {line}")
    assert "\n" not in str(caught.value)


def test_every_surface_says_whether_it_has_a_path() -> None:
    assert {kind for kind, (_, hints) in SURFACES.items() if hints} == {"pty", "socket"}
