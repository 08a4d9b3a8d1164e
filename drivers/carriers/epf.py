"""Base class of back halves that are a function of an endpoint controller."""

from __future__ import annotations

from drivers.bus.back import Identity, VhostBack
from drivers.contracts.hw import Epc
from rings.memory import Memory

__all__ = ["EndpointFunction"]


class EndpointFunction(VhostBack):
    """A virtio device as an endpoint function. Subclasses add registers and interrupts."""

    def __init__(self, epc: Epc, function: int, identity: Identity) -> None:
        super().__init__(identity)
        self.meter = epc.meter(function)
        self._class_code = identity.class_code
        self._epc = epc
        self._function = function

    def unbind(self) -> None:
        self._epc.clear(self._function)

    # VhostOps

    @property
    def lossy(self) -> bool:
        return self._epc.lossy

    def memory(self) -> Memory:
        return self._epc.window(self._function)

    async def settle(self) -> None:
        await self._epc.settle()

    # FunctionEvents

    def link_up(self) -> None:
        """Do nothing: the next set-up gets the new epoch's window."""

    def link_down(self) -> None:
        self.device.reset()

    def reset(self) -> None:
        self.device.reset()
