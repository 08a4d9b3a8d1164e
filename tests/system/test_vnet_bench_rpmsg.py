"""How fast rpmsg is. Measure with ``pytest --benchmark-enable tests/system/test_vnet_bench_rpmsg.py``."""

from __future__ import annotations

import trio
from pytest_benchmark.fixture import BenchmarkFixture

from vnet.bench.rpmsg import RpmsgFigures, measure_rpmsg


def test_messages_per_second_and_round_trip(benchmark: BenchmarkFixture) -> None:
    few = not benchmark.enabled

    def run() -> RpmsgFigures:
        return trio.run(measure_rpmsg, 2_000 if few else 50_000, 100 if few else 5_000)

    figures = benchmark.pedantic(run, rounds=1 if few else 5)  # type: ignore[no-untyped-call]
    benchmark.extra_info.update(
        to_device=round(figures.to_device), to_driver=round(figures.to_driver), round_trip_us=figures.round_trip * 1e6
    )
    print(figures)
    assert min(figures.to_device, figures.to_driver, figures.round_trip) > 0
