"""The test kit of rings: hostile peers, memories that check their users, and a ring dump.

Nothing here validates what it writes. For tests, examples and other test kits only.
"""

from rings.testing.memory import Changing, Guarded
from rings.testing.packed import PackedDesc, RawPackedRing
from rings.testing.split import Desc, RawRing, dump, linked
from rings.watched import Access, Act, Watched

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
