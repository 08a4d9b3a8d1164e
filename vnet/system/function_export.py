"""A function served to vfio-user clients: its links, each with an endpoint controller and the client's root complex."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from drivers.bus.back import Identity, VhostBack
from drivers.carriers.transport import LinkTransport, Transport
from drivers.contracts.ipc import FdSocket
from rings.memory import Memory
from vnet.errors import ConfigError
from vnet.link.base import Link
from vnet.pcie.epc import EndpointController
from vnet.spec import DeviceSpec
from vnet.transports import TRANSPORTS
from vnet.vfio_user.server import VfioUserRoot
from vnet.vfio_user.session import Doorbell

__all__ = ["BUS", "MEMORY", "FunctionExport", "doorbells", "function_transports", "make_back"]

BUS = 1
"""Number of the one bus of a client's root complex."""
MEMORY = 16 << 20
"""Bytes of an endpoint's memory, for BARs that are memory. Untouched pages use none."""


class FunctionExport:
    """A link whose root complex is a vfio-user client. Implements `vnet.system.sessions.Server`."""

    def __init__(self, link: Link, controller: EndpointController, root: VfioUserRoot) -> None:
        """``controller`` is at the endpoint of ``link``, whose function 0 is that of ``root``."""
        self.controller = controller
        self._link = link
        self._root = root
        self._server = root.servers[0]
        self.statistics = self._server.statistics

    def memory(self) -> Memory:
        """Return the client's memory, as far as that shares it."""
        return self._server.memory

    def start(self, doorbells: Sequence[Doorbell] = ()) -> None:
        """Appear on the link, once the function is bound."""
        self._server.doorbells = doorbells
        self._root.attach(self._link)
        self.controller.start()

    @property
    def connected(self) -> bool:
        return self._server.connected

    async def wait_free(self) -> None:
        """Wait until a client that has hung up is let go."""
        await self._server.wait_free()

    async def serve_connection(self, socket: FdSocket) -> None:
        """Serve a client. Raises ProtocolError, TransportLost."""
        await self._server.serve_connection(socket)


def function_transports() -> list[str]:
    """Return the names of the transports whose back half is an endpoint function."""
    return [name for name, transport in TRANSPORTS.items() if isinstance(transport, LinkTransport)]


def doorbells(transport: Transport, queues: int) -> list[Doorbell]:
    """Return the registers that notify a device of ``queues`` queues, and do so whatever their value."""
    return [
        Doorbell(bells.bar, at, bells.size)
        for bells in transport.doorbells
        for queue in range(queues)
        if bells.step and (at := bells.start + bells.step * queue) < bells.end
    ]


def make_back(export: FunctionExport, spec: DeviceSpec, identity: Identity) -> tuple[VhostBack, Callable[[], None]]:
    """Make the back half of a device as function 0 of a link, over the transport of ``spec``.

    Returns it with the call that lets it appear on the link. Raises ConfigError if it has too many queues.
    """
    transport = TRANSPORTS[spec.transport]
    assert isinstance(transport, LinkTransport)
    field, queues = spec.queue_count
    if transport.queues is not None and queues > transport.queues:
        why = f"must be less: it takes {queues} queues, and transport {spec.transport} carries {transport.queues}"
        raise ConfigError("", field, getattr(spec, field), why)
    back = transport.back(export.controller, 0, identity, **attrs.asdict(spec.options, recurse=False))

    def start() -> None:
        export.start(doorbells(transport, len(back.device.queues)))

    return back, start
