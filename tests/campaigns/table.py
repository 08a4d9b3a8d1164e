"""The campaigns: a line each."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Callable, Mapping

import attrs

from campaigns.stage import Stage

__all__ = ["CAMPAIGNS", "Campaign"]


@attrs.frozen
class Campaign:
    """A kind of fault with its load. ``place`` is ``module:function``; the function takes a `Stage`."""

    name: str
    place: str
    round: str
    """Event of each round, and the load under which it happens, for the page."""
    goal: int
    """Rounds that a release wants."""
    short: int
    """Rounds of the system test: a few seconds."""
    tools: tuple[str, ...] = ()
    """Programs that must be on PATH."""

    def load(self) -> Callable[[Stage], None]:
        """Import and return the function, which runs the rounds of a stage."""
        module, _, name = self.place.partition(":")
        function: Callable[[Stage], None] = getattr(importlib.import_module(f"campaigns.{module}"), name)
        return function

    def missing(self) -> list[str]:
        """Return the tools that are not on PATH."""
        return [tool for tool in self.tools if shutil.which(tool) is None]


_LINES = (
    Campaign(
        "kill-serve",
        "kill:serve",
        "kill -9 of `vnet serve blk`, `vnet serve net` or their front end `vnet up`, in turn",
        goal=3000,
        short=3,
    ),
    Campaign("kill-up", "kill:up", "kill -9 of `vnet up` with both sides of a link", goal=1000, short=1),
    Campaign(
        "kill-link",
        "kill:link",
        "kill -9 of the process of a link's root complex or of its endpoint, in turn",
        goal=2000,
        short=2,
    ),
    Campaign(
        "reconnect-qemu",
        "reconnect:qemu",
        "kill -9 of `vnet serve blk`, to which QEMU connects again; its guest writes and reads sectors",
        goal=1000,
        short=1,
        tools=("qemu-system-x86_64", "as", "ld"),
    ),
    Campaign(
        "reconnect-dpdk-driver",
        "reconnect:dpdk_driver",
        "kill -9 of `vnet serve net`, which connects to DPDK's virtio-user again",
        goal=1000,
        short=1,
        tools=("dpdk-testpmd",),
    ),
    Campaign(
        "reconnect-dpdk-device",
        "reconnect:dpdk_device",
        "kill -9 of `vnet up`, whose driver connects to DPDK's vhost again",
        goal=1000,
        short=1,
        tools=("dpdk-testpmd",),
    ),
    Campaign(
        "stop",
        "stop:serve",
        "SIGSTOP of one of the three processes of kill-serve in turn, for up to 2 s, each tenth time for 30 s",
        goal=300,
        short=3,
    ),
    Campaign(
        "flap",
        "flap:flaps",
        "a link flap under a TCP connection, HTTP requests, a disk and an rpmsg channel at once",
        goal=1000,
        short=2,
    ),
    Campaign(
        "wire-errors",
        "wire:errors",
        "8 MiB in all over HTTP, of a disk, a SCSI host and an rpmsg channel at once, on a link of packets with faults "
        "of six kinds, each at a rate of 10^-4 to 10^-2 per packet",
        goal=128,
        short=1,
    ),
    Campaign(
        "wire-retrains",
        "wire:retrains",
        "10 retrains of a link of packets in real time, under a TCP connection, HTTP requests and a disk",
        goal=100,
        short=1,
    ),
    Campaign(
        "flap-simulated",
        "simulated:flaps",
        "100 link flaps in a random system, in simulated time, under all loads of its devices",
        goal=100,
        short=1,
    ),
    Campaign(
        "soak-packets",
        "soak:packets",
        "10,000 datagrams in both directions, each of which is checked",
        goal=10_000,
        short=1,
    ),
    Campaign(
        "soak-requests",
        "soak:requests",
        "1,000 requests of a disk over NBD, whose data are compared",
        goal=10_000,
        short=1,
    ),
    Campaign(
        "failing-calls",
        "syscalls.campaign:failing_calls",
        "one system call of `vnet serve`, `up` or `demo` that fails, at one call site with one error, under load",
        goal=4_000,
        short=3,
        tools=("cc", "ping"),
    ),
)
CAMPAIGNS: Mapping[str, Campaign] = {campaign.name: campaign for campaign in _LINES}
