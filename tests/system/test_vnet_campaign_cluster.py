"""A campaign on a Ray cluster has the results of one on this machine, also if a node goes away meanwhile."""

from __future__ import annotations

import importlib.util
import socket
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
import trio

from support.machine import unavailable
from vnet.campaign.local import run_local
from vnet.campaign.plan import Plan
from vnet.campaign.tally import Tally
from vnet.campaign.trial import Record
from vnet.errors import ControlError
from vnet.sim.configuration import Configuration

PLAN = Plan(Configuration(seconds=0.1, data_path=False))
SEEDS = range(20, 60)
NODE = {"num_cpus": 1, "node_ip_address": "127.0.0.1"}


@pytest.fixture(autouse=True)
def with_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if importlib.util.find_spec("ray") is None:
        unavailable("needs the extra ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:  # short: it has sockets
        monkeypatch.setenv("RAY_TMPDIR", folder)
        monkeypatch.chdir(folder)  # Ray's processes import from the folder of the first one: not from the work tree
        yield


def test_an_address_without_a_cluster_is_an_error() -> None:
    from vnet.campaign.cluster import connect

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(ControlError, match=f"^no Ray cluster at {address}: .*refused"), connect(address):
        pass
    with pytest.raises(ControlError, match=r"^no Ray cluster at nonsense: "), connect("nonsense"):
        pass


@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("default")  # of Ray itself
def test_a_node_that_goes_away_costs_no_result() -> None:
    import ray
    from ray.cluster_utils import Cluster

    from vnet.campaign.cluster import connect, run_on_ray

    local, distributed = Tally(PLAN, SEEDS), Tally(PLAN, SEEDS)
    trio.run(run_local, PLAN, SEEDS, 1, 600.0, local.add)
    cluster: Any = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        nodes = [cluster.add_node(**NODE)]
        with connect(cluster.address):
            cluster.wait_for_nodes()
            assert sum(node["Alive"] for node in ray.nodes()) == 2

            def take(record: Record) -> None:
                distributed.add(record)
                if nodes:
                    cluster.remove_node(nodes.pop(), allow_graceful=False)

            trio.run(run_on_ray, PLAN, SEEDS, 600.0, take)
    finally:
        cluster.shutdown()
    assert distributed.plain() | {"trial_seconds": 0} == local.plain() | {"trial_seconds": 0}
    assert (len(distributed.hashes), distributed.failures, nodes) == (len(SEEDS), [], [])
