"""The test kit of rings: hostile peers, memories that check their users, and a ring dump.

Nothing here validates what it writes. For tests, examples and other test kits only.
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
