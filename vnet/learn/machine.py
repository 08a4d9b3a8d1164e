"""A machine for lessons: memory as named words, and a record of what both sides do to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import attrs

from rings.memory import Addr, Memory
from rings.watched import Access, Act, Watched

__all__ = ["Area", "Machine", "RecordedMemory", "Trace", "Word", "printable"]


@attrs.frozen
class Word:
    """A named word of memory, or a register."""

    name: str
    read: Callable[[], str]
    """Returns its value as a text."""
    addr: int = -1
    """Address; -1 for a register."""
    size: int = 0
    """Bytes."""


@attrs.frozen
class Area:
    """Words that belong together."""

    title: str
    writer: str
    """The side that writes to it: driver, device, or both."""
    words: tuple[Word, ...] = ()
    slots: tuple[tuple[Word, ...], ...] = ()
    """Equal parts, such as descriptors or ring entries."""
    circle: bool = False
    """Whether the first slot follows the last one."""

    @property
    def all(self) -> tuple[Word, ...]:
        return (*self.words, *(word for slot in self.slots for word in slot))


@attrs.frozen
class Trace:
    """One act of one side."""

    actor: str
    act: str
    """load, store and fence of memory; map: a view of a buffer; read and write of a register; notify; interrupt."""
    text: str = ""
    names: tuple[str, ...] = ()
    """Names of the words."""


class Machine:
    """Named words and a record. ``memory`` is what both sides reach, read without a trace."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.areas: list[Area] = []
        self.trace: list[Trace] = []

    async def settle(self) -> None:
        """Let the tasks of the device run; bare rings have none."""

    def note(self, actor: str, act: str, text: str = "", names: Sequence[str] = ()) -> None:
        """Record an act."""
        self.trace.append(Trace(actor, act, text, tuple(names)))

    def note_access(self, actor: str, access: Access) -> None:
        """Record an access to memory, with the names of its words and their values after it."""
        if access.act is Act.FENCE:
            self.note(actor, "fence")
            return
        words = [word for area in self.areas for word in area.all if _overlap(word, access)]
        names = [word.name for word in words]
        if access.act in (Act.LOAD, Act.STORE):
            text = ", ".join(f"{word.name} = {word.read()}" for word in words)
            self.note(actor, access.act.value, text or f"{access.size} bytes at {access.addr:#x}", names)
        else:
            titles = [area.title for area in self.areas if any(_overlap(word, access) for word in area.all)]
            use = "to write" if access.act is Act.WRITE else "to read"
            self.note(actor, "map", f"{', '.join(titles)}, {access.size} bytes {use}", names)

    def put(self, actor: str, name: str, views: Sequence[memoryview], data: bytes) -> None:
        """Write ``data`` into a buffer called ``name`` and record it."""
        for view in views:
            part, data = data[: len(view)], data[len(view) :]
            view[: len(part)] = part
            self.note(actor, "store", f"{name} = {printable(part)}", (name,))

    def word(self, name: str, addr: Addr, size: int, show: Callable[[bytes], str]) -> Word:
        """Return a named word of memory."""
        return Word(name, partial(self._show, addr, size, show), addr, size)

    def buffer(self, name: str, addr: Addr, size: int, writer: str) -> None:
        """Name a buffer."""
        self.areas.append(Area(name, writer, (self.word(name, addr, size, printable),)))

    def _show(self, addr: Addr, size: int, show: Callable[[bytes], str]) -> str:
        return show(bytes(self.memory.view(addr, size)))


def _overlap(word: Word, access: Access) -> bool:
    return word.addr < access.addr + access.size and access.addr < word.addr + word.size


def printable(data: bytes) -> str:
    """Return a buffer's contents: text in quotes if it is one, else the first bytes in hex."""
    data = data.rstrip(b"\0")
    if data.isascii() and data.decode("ascii").isprintable():
        return f"'{data.decode('ascii')}'"
    return data[:16].hex(" ") + (" ..." if len(data) > 16 else "")


class RecordedMemory(Watched):
    """The memory as one side reaches it: each access goes to the machine's record."""

    def __init__(self, memory: Memory, actor: str, machine: Machine) -> None:
        super().__init__(memory)
        self._actor, self._machine = actor, machine

    def tell(self, access: Access) -> None:
        self._machine.note_access(self._actor, access)
