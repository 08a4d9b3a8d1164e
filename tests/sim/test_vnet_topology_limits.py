"""Every value that a topology may have brings its device up, at the limits too, and where several limits meet."""

from __future__ import annotations

from pathlib import Path

import pytest

from rings.features import bits
from vnet.ends import DEVICE_TYPES
from vnet.errors import ConfigError
from vnet.spec import MIB
from vnet.system.world import World, open_world
from vnet.topology import parse
from vnet.topology.samples import built_in_text

PORTS = 'driver.kind = "memory"\ndevice.kind = "memory"\n'
NET = {
    "queue_size = 2",
    "queue_size = 32768\nfeatures_off = ['GUEST_TSO4', 'GUEST_TSO6', 'GUEST_USO4', 'GUEST_USO6', 'CSUM']",
    "ring = 'packed'\nqueue_size = 2",
    "ring = 'packed'\nqueue_size = 32768\nrx_buffer = 64\nfeatures_off = ['HOST_TSO4', 'HOST_TSO6', 'HOST_USO']",
    "mtu = 68",
    "mtu = 65521",
    "mtu = 65521\nfeatures_off = ['MTU']",
    "mtu = 65521\nfeatures_off = ['CSUM', 'GUEST_CSUM']",
    "mtu = 1500\nfeatures_off = ['MTU', 'CSUM', 'GUEST_CSUM']",
    "rx_buffer = 64",
    "rx_buffer = 1048576",
    "rx_buffer = 763\nqueue_size = 2",
    "queue_pairs = 64",
    "queue_pairs = 64\nqueue_size = 2",
    "speed = 1",
    "speed = 2147483647\nduplex = 'half'",
    "vlans = [0, 4095]\npromisc = true",
    "vlans = [1]\npromisc = true\nfeatures_off = ['CTRL_VQ']",
    "mac = '02:00:00:00:00:02'",
    "peer_mac = '02:00:00:00:00:01'",
    "mac = '00:00:00:00:00:01'\npeer_mac = 'FE:FF:FF:FF:FF:FF'",
    "function = 7",
}
BLK = {
    "queue_size = 4",
    "queue_size = 4\nfeatures_off = ['INDIRECT_DESC']",
    "queue_size = 32768",
    "ring = 'packed'\nqueue_size = 4",
    "queues = 16",
    "queues = 16\nfeatures_off = ['MQ']",
    "driver.buffers = 1",
    "driver.buffers = 1024",
    "device = { size = 1, block_size = 65536 }",
    "device = { size = 1, serial = '' }",
    "device = { size = 1, serial = '01234567890123456789', workers = 1 }",
    "device = { size = 1, read_only = true, workers = 64 }",
}
SCSI = {
    "queue_size = 4",
    "queue_size = 4\nfeatures_off = ['INDIRECT_DESC']",
    "queue_size = 32768",
    "ring = 'packed'\nqueue_size = 4",
    "queues = 16",
    "driver.buffers = 1",
    "driver.buffers = 1024",
    "device.luns = []",
    "device = { max_target = 0, workers = 1, luns = [{ size = 1, lun = 16383, block_size = 65536 }] }",
    "device = { workers = 64, luns = [{ size = 1, target = 255, serial = '1' }] }",
}
RPMSG = {
    "queue_size = 2",
    "queue_size = 32768",
    "queue_size = 1024\nto_driver = 65551\nto_device = 65551",
    "to_driver = 60\nto_device = 65551",
    "driver.channels = [{ name = 'a', inbox = 1 }]\ndevice.channels = [{ name = 'a', inbox = 65536 }]",
    "driver.channels = [{ name = 'a', addr = 0 }]\ndevice.channels = [{ name = 'b', addr = 4294967294 }]",
    "driver.channels = [{ name = 'a' }, { name = 'b', addr = 1024 }]",
}
CHANNELS = ", ".join(f"{{ name = 'c{number}' }}" for number in range(1024))
DEVICE_KEYS = [
    *(("net", PORTS + keys) for keys in sorted(NET)),
    *(("blk", keys) for keys in sorted(BLK)),
    *(("scsi", keys) for keys in sorted(SCSI)),
    *(("rpmsg", keys) for keys in sorted(RPMSG)),
]


async def comes_up(text: str) -> World:
    async with open_world(parse(text)) as world:
        await world.wait_up(120.0)
        return world


@pytest.mark.parametrize(("kind", "keys"), DEVICE_KEYS, ids=lambda text: text.replace(PORTS, "").replace("\n", ", "))
async def test_a_device_comes_up_with_its_keys_at_their_limits(kind: str, keys: str) -> None:
    await comes_up(built_in_text(kind, keys=keys))


@pytest.mark.parametrize("transport", ["epf_mailbox", "mmio", "ntb", "vhost_user"])
@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("net", PORTS + "queue_size = 2"),
        ("net", PORTS + "queue_pairs = 3"),
        ("net", PORTS + "queue_size = 2048\nfeatures_off = ['CSUM', 'GUEST_CSUM']"),
        ("blk", "queues = 8\ndriver.buffers = 256"),
        ("blk", "queue_size = 4"),
        ("scsi", "queues = 6\ndriver.buffers = 256"),
        ("scsi", "queue_size = 4"),
        ("rpmsg", "queue_size = 1024\nto_driver = 65536"),
    ],
    ids=lambda text: text.replace(PORTS, "").replace("\n", ", "),
)
async def test_limits_of_a_device_are_none_of_its_transport(kind: str, keys: str, transport: str) -> None:
    await comes_up(built_in_text(kind, transport, keys))


@pytest.mark.parametrize(
    ("kind", "feature"),
    [
        (name, kind.virtio.table.name(bit))
        for name, kind in DEVICE_TYPES.items()
        for bit in bits(kind.virtio.switchable)
    ],
)
async def test_each_feature_may_be_off_alone(kind: str, feature: str) -> None:
    keys = f"queue_size = 16\nfeatures_off = ['{feature}']\n"
    await comes_up(built_in_text(kind, keys=keys + (PORTS if kind == "net" else "")))


async def test_an_end_has_as_many_channels_as_endpoints_are_allowed() -> None:
    await comes_up(built_in_text("rpmsg", keys=f"driver.channels = [{CHANNELS}]"))
    with pytest.raises(ConfigError, match=r"rpmsg0\.driver\.channels = 1025: must be at most 1024 channels"):
        parse(built_in_text("rpmsg", keys=f"driver.channels = [{CHANNELS}, {{ name = 'more' }}]"))


# Memory


@pytest.mark.parametrize("memory", [1, 3054, 3055, 61440])
async def test_a_host_has_any_memory_that_is_allowed(memory: int) -> None:
    text = built_in_text("rpmsg").replace("[hosts.rc]", f"[hosts.rc]\nmemory = {memory}")
    world = await comes_up(text)
    assert world.topology.hosts["rc"].memory == memory


def least(text: str, host: str) -> int:
    """The least memory, in MiB, that a host of this topology may be given."""

    def allowed(memory: int) -> bool:
        try:
            parse(text.replace(f"[hosts.{host}]", f"[hosts.{host}]\nmemory = {memory}"))
        except ConfigError:
            return False
        return True

    return next(memory for memory in range(1, 4079) if allowed(memory))


MEMORY_KEYS = [
    ("net", PORTS, "direct"),
    ("net", PORTS + "mtu = 9000\nfeatures_off = ['CSUM', 'GUEST_CSUM']\nqueue_size = 1024", "direct"),
    ("net", PORTS + "queue_pairs = 2\nqueue_size = 128", "direct"),
    ("net", PORTS + "rx_buffer = 2048\nring = 'packed'", "direct"),
    ("net", PORTS, "mediated"),
    ("net", PORTS + "local_features_off = ['CSUM', 'GUEST_CSUM']", "mediated"),
    ("blk", "queues = 4\nqueue_size = 1024", "direct"),
    ("scsi", "queues = 4\nqueue_size = 1024", "direct"),
    ("rpmsg", "to_driver = 16384", "direct"),
    ("rpmsg", "to_driver = 16384\nlocal_to_driver = 65536", "mediated"),
]


@pytest.mark.parametrize(("kind", "keys", "mode"), MEMORY_KEYS)
async def test_the_least_memory_that_is_allowed_is_enough_and_hardly_more_than_that(
    kind: str, keys: str, mode: str
) -> None:
    text = built_in_text(kind, keys=keys, mode=mode)
    for host in ("rc", "ep"):
        text = text.replace(f"[hosts.{host}]", f"[hosts.{host}]\nmemory = {least(text, host)}")
    async with open_world(parse(text)) as world:
        await world.wait_up()
        for each in world.hosts.values():
            assert each.memory.size - each.memory.statistics().used <= 2 * MIB


@pytest.mark.parametrize("transport", ["pci", "mmio", "vhost_user", "epf_mailbox"])
async def test_the_memory_of_a_host_is_by_default_what_its_devices_need(transport: str) -> None:
    """The ninth network device came up no more: four take 128 MiB."""
    text = built_in_text("net", transport, PORTS, name="net0")
    head, _, device = text.partition("[devices.net0]")
    many = [f"[devices.net{number}]{device}" for number in range(9)]
    if transport in ("pci", "epf_mailbox"):
        head += '[links.pcie1]\nroot = "rc"\nendpoint = "ep"\n'
        many = [each + f"function = {number % 8}\n" for number, each in enumerate(many)]
        many[8] = many[8].replace('"pcie0"', '"pcie1"')
    await comes_up(head + "".join(many))


async def test_an_ntb_has_a_window_of_the_size_that_its_device_needs() -> None:
    world = await comes_up(built_in_text("net", "ntb", PORTS + "queue_pairs = 3"))
    [ntb] = world.topology.ntbs.values()
    assert ntb.mw is not None and 3 * 32 < ntb.mw <= 3 * 32 + 2  # noqa: PT018


# Links


@pytest.mark.parametrize(
    "keys",
    [
        "generation = 1\nlanes = 1\nmax_payload = 128\nmax_read_request = 128\ncompletion_boundary = 64",
        "generation = 5\nlanes = 16\nmax_payload = 4096\nmax_read_request = 4096\ncompletion_boundary = 128",
        "read_latency_ns = 0",
        "read_latency_ns = 1000000000",
        "faults = {}",
        "faults = { seed = -1 }",
        "faults = { lost_interrupts = 1 }",
        "faults = { delayed_interrupts = 1.0, delay_ms = 0.001 }",
        "faults = { delayed_interrupts = 1.0, delay_ms = 100 }",
        "faults = { timeouts = 0.001, unsupported = 0.001, aborted = 0.001, poisoned = 0.001 }",
        "faults = { flap_every_ms = 40 }",
        "faults = { flap_every_ms = 3600000, flap_ms = 3599999 }",
        "faults = { flap_every_ms = 1, flap_ms = 0.001 }",
    ],
)
@pytest.mark.parametrize("transport", ["pci", "epf_mailbox", "ntb"])
async def test_a_device_comes_up_over_a_link_with_keys_at_their_limits(keys: str, transport: str) -> None:
    await comes_up(built_in_text("net", transport, PORTS, link=keys))


async def test_a_trace_may_be_written_anywhere(tmp_path: Path) -> None:
    await comes_up(built_in_text("net", keys=PORTS, link=f"trace = '{tmp_path}/a trace'"))
    assert (tmp_path / "a trace").read_text(encoding="utf-8")
