"""Functions of an endpoint controller: base classes of any function, and of back halves that are one."""

from __future__ import annotations

import trio

from drivers.bus.back import Identity, VhostBack
from drivers.contracts.hw import Epc
from rings.memory import Memory

__all__ = ["EndpointFunction", "VirtioFunction"]


class EndpointFunction:
    """A function of an endpoint controller (Linux: pci_epf). Implements `drivers.contracts.hw.FunctionEvents`.

    Subclasses set up the function in `bind`: header, BARs with their registers, capabilities and interrupts. Accesses
    to registers call the blocks of their BARs, which answer at once; `run` is for work that waits.
    """

    def __init__(self, epc: Epc, number: int = 0) -> None:
        self.epc = epc
        self.number = number

    def bind(self) -> None:
        """Set up the function, before the link comes up. Subclasses extend it: ``epc.set_header`` comes first."""
        self.epc.watch(self.number, self)

    def unbind(self) -> None:
        """Remove the function."""
        self.epc.clear(self.number)

    async def run(self) -> None:
        """Work until cancelled. By default there is nothing to do."""
        await trio.sleep_forever()

    def reset(self) -> None:
        """Handle a function-level reset: registers are as after power-up."""

    def link_up(self) -> None:
        """Handle link-up."""

    def link_down(self) -> None:
        """Handle link-down, which resets the function, too."""
        self.reset()


class VirtioFunction(VhostBack):
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
