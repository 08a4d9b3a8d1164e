"""Imported by each Python process that a test under a mutation starts: gives it the same edited modules."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2]))
with suppress(ImportError):  # an interpreter without the packages of the tests runs no edited code
    from mutations.edit import CHILDREN, Finder

    if CHILDREN in os.environ:
        sys.meta_path.insert(0, Finder(json.loads(os.environ[CHILDREN])))
sys.path.pop()
