"""Virtqueues in shared memory and the rules of both sides: sans-I/O, no clock, no tasks.

See ``rings/README.md`` for the map. Section numbers in docstrings are those of VIRTIO 1.4.
"""

import sys

if sys.byteorder != "little":  # ring fields are little-endian and read through native typed views
    raise ImportError("rings needs a little-endian machine: its typed views read ring fields in native order")
