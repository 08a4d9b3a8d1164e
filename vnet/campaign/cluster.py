"""The trials of a campaign on a Ray cluster, whose nodes may die and come: their trials run again on others."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import ray
import trio
import trio_parallel
from ray.exceptions import RayError

from vnet.campaign.local import Take, run_all
from vnet.campaign.plan import Plan, code_version
from vnet.campaign.trial import Record
from vnet.errors import ControlError

__all__ = ["connect", "run_on_ray"]

SLICE = 8
"""Seeds of one task: all of them run again if its node dies."""
RETRIES = 20
"""Most times that a task begins anew because a node or one of Ray's processes died."""
WAIT = 1.0
"""Seconds after which the size of the cluster is looked up again."""
CONNECT = 10.0
"""Seconds that a cluster's address may take to answer: Ray itself tries for minutes."""
AHEAD = 2
"""Tasks for each processor of the cluster that are under way, so that none waits for the next one."""


@contextmanager
def connect(address: str | None) -> Iterator[None]:
    """Connect to the cluster at ``address``, or that of RAY_ADDRESS; without either, start one on this machine.

    Raises ControlError if none answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster of ours reports to no one
    address = address or os.environ.get("RAY_ADDRESS")
    try:
        if address is not None:
            _reach(address)
        ray.init(
            address=address, log_to_driver=False, logging_level="ERROR", include_dashboard=None if address else False
        )
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise ControlError(f"no Ray cluster{f' at {address}' if address else ''}: {error}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Connect to an address of the form HOST:PORT. Raises OSError."""
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "://" not in host:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT).close()


def _run_slice(plan: Plan, seeds: Sequence[int], limit: float) -> tuple[dict[str, str], list[Record]]:
    """Run trials one after another, on whatever node this is, with a process that later slices use, too."""
    records: list[Record] = []
    trio.run(run_all, trio_parallel.run_sync, plan, seeds, 1, limit, records.append)
    return code_version(), records


async def run_on_ray(plan: Plan, seeds: Sequence[int], limit: float, take: Take) -> None:
    """Run the trials of ``seeds`` on the cluster that is connected. Raises ConfigError, ControlError."""
    task = ray.remote(_run_slice).options(num_cpus=1, max_retries=RETRIES)
    slices = (seeds[at : at + SLICE] for at in range(0, len(seeds), SLICE))
    running: dict[Any, Sequence[int]] = {}
    try:
        while True:
            free = AHEAD * _processors() - len(running)
            running |= {task.remote(plan, each, limit): each for each in islice(slices, max(free, 0))}
            if not running:
                return
            done, _ = await trio.to_thread.run_sync(_wait, list(running), abandon_on_cancel=True)
            for ref in done:
                for record in await _records(ref, running.pop(ref)):
                    take(record)
    finally:
        for ref in running:
            ray.cancel(ref, force=True)


def _processors() -> int:
    return max(int(ray.cluster_resources().get("CPU", 1)), 1)


def _wait(refs: list[Any]) -> tuple[list[Any], list[Any]]:
    done, rest = ray.wait(refs, timeout=WAIT)
    return done, rest


async def _records(ref: Any, seeds: Sequence[int]) -> list[Record]:
    """Return the results of a task. Raises ControlError if it was given up, or if its node runs another version."""
    try:
        version, records = await trio.to_thread.run_sync(ray.get, ref)
    except RayError as error:
        text = str(error).strip().splitlines() or [type(error).__name__]
        raise ControlError(f"seeds {seeds[0]} to {seeds[-1]}: Ray gave up: {text[-1]}") from None
    if version != (own := code_version()):
        raise ControlError(f"a node of the cluster has {_words(version)}, this machine {_words(own)}")
    results: list[Record] = records
    return results


def _words(version: dict[str, str]) -> str:
    return f"vnet-virtio {version['version']} {version['commit']} with Trio {version['trio']}".replace("  ", " ")
