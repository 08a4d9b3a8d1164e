"""The metrics of a system are its snapshot in Prometheus's text format, with names in Prometheus's manner."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from prometheus_client.samples import Sample

from vnet.errors import ControlError
from vnet.metrics.collector import SystemCollector
from vnet.metrics.table import PARTS
from vnet.system.snapshot import take_snapshot
from vnet.system.world import open_world
from vnet.topology.samples import built_in
from vnet.views.system import SystemView

PORTS = 'driver = { kind = "memory" }\ndevice = { kind = "memory" }'
LINK = "generation = 3\nfaults = { lost_doorbells = 0.5 }"
UNIT = re.compile(r".*(_bytes|_packets|_chains|_descriptors|_total|_live|_up|_epoch|_windows|_broken)")


def registry_of(look: Callable[[], SystemView]) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(SystemCollector("t", look))
    return registry


async def view_of(kind: str, transport: str, link: str = LINK) -> SystemView:
    """The view of a system that has carried ten frames, and lost one."""
    keys = PORTS if kind == "net" else ""
    async with open_world(built_in(kind, transport, keys, link=link), "t") as world:
        await world.wait_up()
        if kind == "net":
            for _ in range(10):
                world.memory_port("net0", "driver").inject(bytes(60))
                await world.memory_port("net0", "device").receive()
            world.memory_port("net0", "device").drop("too_long")
        return take_snapshot(world)


def samples(view: SystemView) -> dict[tuple[str, frozenset[str]], Sample]:
    text = generate_latest(registry_of(lambda: view)).decode()
    parsed = [sample for family in parse_text(text) for sample in family.samples]
    by_key = {(each.name, frozenset(each.labels.values())): each for each in parsed}
    assert len(by_key) == len(parsed), "each sample is there once"
    return by_key


async def test_samples_have_the_figures_of_the_snapshot() -> None:
    view = await view_of("net", "pci")
    values = {key: sample.value for key, sample in samples(view).items()}
    queue = view.devices["net0"].driver.queues[1].view
    assert queue.counters.packets == 10
    labels = frozenset({"t", "rc", "net0", "driver", "transmitq1"})
    assert values["vnet_queue_packets_total", labels] == 10
    assert values["vnet_queue_bytes_total", labels] == queue.counters.bytes
    assert values["vnet_queue_kicks_total", labels] == queue.counters.kicks
    assert values["vnet_ring_size_descriptors", labels] == 256
    assert values["vnet_port_drops_total", frozenset({"t", "ep", "net0", "device", "too_long"})] == 1
    assert values["vnet_device_up", frozenset({"t", "net0", "net", "pci"})] == 1
    timing = view.links["pcie0"].figures.timing
    assert timing is not None
    assert values["vnet_link_wire_bytes_total", frozenset({"t", "pcie0", "downstream"})] == timing.downstream.wire
    fault, count = next(iter(view.links["pcie0"].figures.faults.items()))
    assert values["vnet_link_faults_total", frozenset({"t", "pcie0", fault})] == count
    assert values["vnet_host_msi_interrupts_total", frozenset({"t", "rc"})] == view.hosts["rc"].interrupts.msi


async def test_the_histogram_counts_each_batch_once_below_its_bound() -> None:
    view = await view_of("net", "pci")
    batches = view.devices["net0"].driver.queues[1].view.counters.batches
    buckets = {
        sample.labels["le"]: sample.value
        for sample in samples(view).values()
        if sample.name == "vnet_queue_batch_packets_bucket"
        and (sample.labels["side"], sample.labels["queue"]) == ("driver", "transmitq1")
    }
    assert list(buckets)[:3] == ["1.0", "3.0", "7.0"]
    assert list(buckets.values()) == [sum(batches[: at + 1]) for at in range(len(batches))]
    assert list(buckets)[-1] == "+Inf"


@pytest.mark.parametrize("kind", ["net", "blk", "scsi", "rpmsg"])
@pytest.mark.parametrize("transport", ["pci", "ntb", "mmio", "vhost_user"])
async def test_every_system_has_metrics_that_both_parsers_take(kind: str, transport: str) -> None:
    view = await view_of(kind, transport, "")
    registry = registry_of(lambda: view)
    assert samples(view)
    families = list(parse_openmetrics(exposition.generate_latest(registry).decode()))  # type: ignore[no-untyped-call]
    assert sum(len(family.samples) for family in families) == len(samples(view))
    assert ("vnet_ntb_link_up" in {family.name for family in families if family.samples}) is (transport == "ntb")


def test_names_are_unique_and_say_their_unit() -> None:
    names = [f"vnet_{part.name}_{metric.name}" for part in PARTS for metric in part.metrics]
    assert len(names) == len(set(names))
    assert all(re.fullmatch("[a-z_]+", name) and UNIT.fullmatch(name) for name in names)
    assert all(metric.help.endswith(".") for part in PARTS for metric in part.metrics)


@pytest.mark.parametrize("error", [ControlError("it is not running"), OSError(2, "No such file")])
def test_a_system_that_does_not_answer_is_not_up(error: Exception) -> None:
    def look() -> SystemView:
        raise error

    text = generate_latest(registry_of(look)).decode()
    assert text.splitlines()[2:] == ['vnet_up{system="t"} 0.0']


def test_a_scrape_queries_the_system_and_a_registration_does_not() -> None:
    def look() -> SystemView:
        asks.append(1)
        raise ControlError("")

    asks: list[int] = []
    registry = registry_of(look)
    assert not asks
    generate_latest(registry)
    assert len(asks) == 1
