"""The test kit of rings: a peer that writes whatever it likes, memories that tell on you, a picture of a ring.

Nothing here checks what it is told to write. For tests, examples and other test kits only.
"""

from rings.testing.memory import Access, Act, Changing, Guarded, Watched
from rings.testing.packed import PackedDesc, RawPackedRing
from rings.testing.split import Desc, RawRing, dump, linked

__all__ = [
    "Access",
    "Act",
    "Changing",
    "Desc",
    "Guarded",
    "PackedDesc",
    "RawPackedRing",
    "RawRing",
    "Watched",
    "dump",
    "linked",
]
