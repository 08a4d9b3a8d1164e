"""Sessions of virtio over an NTB."""

from __future__ import annotations

import trio

from drivers.carriers.ntb import NtbEpf
from drivers.transports.ntb.end import BEAT
from drivers.transports.ntb.front import NtbVirtio
from drivers.transports.ntb.registers import (
    DB_CONTROL,
    NtbOutcome,
    NtbSide,
    Offer,
    Spad,
    emit_command,
    parse_command,
)
from rings.features import RingFeature, mask
from support.rigs.ntb import DEVICE_ID, MIB, ThreeHosts


class Puppet:
    """The vhost side as a test moves it, word by word: ``ntb`` is the primary's."""

    def __init__(self, ntb: NtbEpf, offer: Offer) -> None:
        self.ntb = ntb
        self.offer = offer
        self.commands: list[int] = []
        self.answering = True
        self.beats = 0
        ntb.watch(self)
        ntb.link_enable()

    def link_event(self) -> None:
        pass

    def db_event(self) -> None:
        self.ntb.db_clear(self.ntb.db_read())
        ntb = self.ntb
        if ntb.spad_read(Spad.VIRTIO_SESSION) == self.offer.session:
            self.put({Spad.READY: self.offer.session})
        word = ntb.spad_read(Spad.COMMAND)
        if word and word not in self.commands:
            self.commands.append(word)
            if self.answering:
                self.complete(word)

    def put(self, words: dict[int, int]) -> None:
        for spad, value in words.items():
            self.ntb.spad_write(spad, value)
        self.ntb.peer_db_set(DB_CONTROL)

    def complete(self, word: int, outcome: int = NtbOutcome.OK) -> None:
        self.put({Spad.COMMAND_STATUS: emit_command(parse_command(word)[0], outcome)})

    def show(self, words: dict[int, int] | None = None) -> None:
        self.put({**self.offer.emit(), **(words or {})})
        self.ntb.peer_spad_write(Spad.TYPE, NtbSide.VHOST)
        self.ntb.peer_db_set(DB_CONTROL)

    async def beat(self) -> None:
        while True:
            self.beats += 1
            self.ntb.peer_spad_write(Spad.BEAT, self.beats)
            await trio.sleep(BEAT)


OFFER = Offer(5, 0x1AF4, DEVICE_ID, mask((RingFeature.VERSION_1,)), 4 * MIB, (64,) * 8, 30, 64)


async def puppet(hosts: ThreeHosts, offer: Offer = OFFER) -> Puppet:
    """A vhost side of a test's own, before a real virtio side."""
    hosts.start_front()
    hosts.start_link(0)
    hosts.start_link(1)
    made = Puppet(await hosts.raw(0), offer)
    hosts.nursery.start_soon(made.beat)
    return made


async def online(hosts: ThreeHosts) -> NtbVirtio:
    with trio.fail_after(1):
        while hosts.device is None or not hosts.device.ops.online:  # noqa: ASYNC110
            await trio.sleep(0.001)
    return hosts.front
