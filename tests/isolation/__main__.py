"""``python -m tests.isolation``, from the root of the work tree."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.pop(0)  # the work tree: packages come from where they are installed
sys.path.insert(0, str(Path(__file__).parents[1]))

from isolation.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
