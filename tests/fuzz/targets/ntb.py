"""Sessions of virtio over an NTB: any words in the scratchpads, doorbells and links that flap, at any time.

After each input: the other side carries on, and a peer that keeps to the protocol is online again.
"""

from __future__ import annotations

import attrs
import trio

from drivers.carriers.ntb import NtbEpf
from drivers.transports.ntb.registers import Spad
from fuzz.oracle import run_tasks
from fuzz.source import Source
from support.rigs.ntb import ThreeHosts, open_hosts
from support.rigs.ntb_sessions import OFFER, Puppet, puppet

__all__ = ["ntb_session"]

STEPS_MAX = 24
WORDS = sorted(Spad)
RECOVERY = 30.0
"""Seconds of simulated time within which an honest peer is online."""


def ntb_session(data: bytes) -> None:
    """A vhost side that writes any words, before a real virtio side."""

    async def run() -> None:
        source = Source(data)
        async with open_hosts() as hosts:
            vhost = await puppet(hosts)
            if source.flag():
                vhost.show()
                await trio.sleep(0.1)
            down: set[int] = set()
            for _ in range(STEPS_MAX):
                if source.left:
                    await _step(source, hosts, vhost, down)
            for link in down:
                await _start_link(hosts, vhost, link)
            await _recovers(hosts, vhost)

    run_tasks(run)


async def _step(source: Source, hosts: ThreeHosts, vhost: Puppet, down: set[int]) -> None:
    act, ntb = source.byte(), vhost.ntb
    if act < 0x90:
        spad, value = source.pick(WORDS), source.number(4)
        (ntb.spad_write if act & 1 else ntb.peer_spad_write)(spad, value)
    elif act < 0xB0:
        _ring(ntb, source.number(2) & ntb.db_valid_mask)
    elif act < 0xD0:
        await trio.sleep(source.byte() / 64)
    elif act < 0xE0:
        link = act & 1
        if link in down:
            await _start_link(hosts, vhost, link)
            down.remove(link)
        else:
            hosts.controllers[link].stop()
            down.add(link)
    elif act < 0xF0:
        vhost.answering = bool(act & 1)
    else:
        vhost.show({source.pick(WORDS): source.number(4)} if act & 1 else None)


async def _start_link(hosts: ThreeHosts, vhost: Puppet, link: int) -> None:
    """Start a link; the vhost side's NTB is another one then."""
    hosts.start_link(link)
    if link == 0:
        await trio.sleep(0.5)  # else that of before may still be there
        vhost.ntb = await hosts.raw(0)
        vhost.ntb.watch(vhost)
        vhost.ntb.link_enable()


def _ring(ntb: NtbEpf, bits: int) -> None:
    if bits:
        ntb.peer_db_set(bits)


async def _recovers(hosts: ThreeHosts, vhost: Puppet) -> None:
    """A new session of a vhost side that keeps to the protocol comes online."""
    vhost.answering, vhost.offer = True, attrs.evolve(OFFER, session=77)
    vhost.commands.clear()
    vhost.ntb.link_enable()
    with trio.fail_after(RECOVERY):
        while True:
            vhost.show()
            await trio.sleep(0.5)
            if hosts.device is not None and hosts.device.ops.online and hosts.front.session == 77:
                return
