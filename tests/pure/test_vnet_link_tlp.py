"""The bytes that transfers take on a PCI Express link, against numbers from elsewhere."""

from __future__ import annotations

from itertools import pairwise
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vnet.link.tlp import (
    CONFIG_READ,
    CONFIG_WRITE,
    GENERATIONS,
    LANES,
    MESSAGE,
    SIZES,
    PcieParameters,
    TlpKind,
    effective_bandwidth,
    read_cost,
    write_cost,
)

TRANSFERS = (64, 128, 192, 256, 320, 512, 1024, 1500, 2048, 4096)
GEN3_X8 = PcieParameters(generation=3, lanes=8, max_payload=256, max_read_request=512)


def test_the_rate_after_encoding_is_what_the_generation_is_known_for() -> None:
    raw = {generation: PcieParameters(generation=generation, lanes=1).raw_rate * 8 / 1e9 for generation in GENERATIONS}
    assert raw == pytest.approx({1: 2.0, 2: 4.0, 3: 7.877, 4: 15.754, 5: 31.508}, rel=1e-4)


@pytest.mark.parametrize(
    ("generation", "lanes", "payload", "interval"),
    [
        (1, 1, 128, 237),
        (1, 4, 256, 118),
        (1, 8, 128, 67),
        (1, 8, 512, 86),
        (1, 16, 256, 72),
        (1, 16, 4096, 534),
        (2, 2, 256, 268),
        (2, 16, 128, 99),
        (3, 1, 4096, 4239),
        (3, 8, 128, 163),
        (3, 8, 256, 203),
        (3, 16, 512, 182),
        (4, 8, 1024, 246),
        (5, 4, 256, 214),
    ],
)
def test_acknowledgements_come_as_often_as_the_tables_of_the_specification_say(
    generation: int, lanes: int, payload: int, interval: int
) -> None:
    parameters = PcieParameters(generation=generation, lanes=lanes, max_payload=payload)
    assert parameters.ack_interval == interval


def test_generation_3_with_8_lanes_leaves_about_57_9_gigabits_for_tlps() -> None:
    """62.96 Gbit/s on the wire and 57.88 above the link layer are the published figures of pcie-bench."""
    assert GEN3_X8.raw_rate * 8e-9 == pytest.approx(62.96, abs=0.1)
    assert GEN3_X8.rate * 8e-9 == pytest.approx(57.88, abs=0.05)


def test_more_generations_and_lanes_are_never_slower() -> None:
    rates = [[PcieParameters(generation=g, lanes=n).rate for n in LANES] for g in GENERATIONS]
    assert all(a < b for row in rates for a, b in pairwise(row))
    assert all(a < b for rows in zip(*rates, strict=True) for a, b in pairwise(rows))


@pytest.mark.parametrize("size", TRANSFERS)
def test_a_transfer_takes_what_the_published_equations_say(size: int) -> None:
    """Headers of 24 bytes for a write or a read request and of 20 for a completion, framing and LCRC included."""
    write, read = write_cost(GEN3_X8, size), read_cost(GEN3_X8, size)
    assert write.request.wire == ceil(size / 256) * 24 + size
    assert write.completion is None
    assert read.request.wire == ceil(size / 512) * 24
    assert read.completion is not None
    assert read.completion.wire == ceil(size / 256) * 20 + size
    rate = GEN3_X8.rate
    assert effective_bandwidth(GEN3_X8, write) == pytest.approx(rate * size / (ceil(size / 256) * 24 + size))
    assert effective_bandwidth(GEN3_X8, read) == pytest.approx(rate * size / (ceil(size / 256) * 20 + size))


def test_the_effective_bandwidth_of_writes_is_a_saw_tooth_below_the_rate() -> None:
    curve = {size: effective_bandwidth(GEN3_X8, write_cost(GEN3_X8, size)) * 8e-9 for size in (64, 256, 260, 512, 4096)}
    assert curve == pytest.approx({64: 42.1, 256: 52.9, 260: 48.8, 512: 52.9, 4096: 52.9}, abs=0.1)


def test_a_request_of_less_than_a_payload_gets_a_completion_of_its_own() -> None:
    parameters = PcieParameters(max_payload=512, max_read_request=128)
    cost = read_cost(parameters, 520)
    assert cost.request.tlps == 5
    assert cost.completion is not None
    assert cost.completion.tlps == 5


@given(
    size=st.integers(1, 70_000),
    payload=st.sampled_from(SIZES),
    request=st.sampled_from(SIZES),
    boundary=st.sampled_from((None, 64, 128)),
)
def test_costs_are_those_of_a_transfer_cut_packet_by_packet(
    size: int, payload: int, request: int, boundary: int | None
) -> None:
    parameters = PcieParameters(max_payload=payload, max_read_request=request, completion_boundary=boundary)

    def cut(size: int, step: int) -> list[int]:
        return [min(step, size - at) for at in range(0, size, step)]

    def wire(header: int, parts: list[int]) -> int:
        return sum(8 + header + ceil(part / 4) * 4 for part in parts)

    writes, requests = cut(size, payload), cut(size, request)
    completions = [part for queries in requests for part in cut(queries, min(boundary or payload, payload))]
    write, read = write_cost(parameters, size), read_cost(parameters, size)
    assert (write.request.tlps, write.request.payload, write.request.wire) == (len(writes), size, wire(16, writes))
    assert (read.request.tlps, read.request.payload, read.request.wire) == (len(requests), 0, 24 * len(requests))
    assert read.completion is not None
    assert (read.completion.tlps, read.completion.payload, read.completion.wire) == (
        len(completions),
        size,
        wire(12, completions),
    )


def test_configuration_requests_are_answered_and_messages_are_not() -> None:
    assert [(way.kind, way.wire) for way in (CONFIG_READ.request, CONFIG_READ.completion) if way] == [
        (TlpKind.CFG_RD, 20),
        (TlpKind.CPLD, 24),
    ]
    assert [(way.kind, way.wire) for way in (CONFIG_WRITE.request, CONFIG_WRITE.completion) if way] == [
        (TlpKind.CFG_WR, 24),
        (TlpKind.CPL, 20),
    ]
    assert (MESSAGE.request.kind, MESSAGE.request.wire, MESSAGE.completion) == (TlpKind.MSG, 24, None)


@pytest.mark.parametrize(
    "wrong",
    [{"generation": 6}, {"lanes": 3}, {"max_payload": 64}, {"max_read_request": 300}, {"completion_boundary": 32}],
)
def test_a_link_that_does_not_exist_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PcieParameters(**wrong)
