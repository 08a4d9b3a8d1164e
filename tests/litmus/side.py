"""``python -m litmus.side MODULE:FUNCTION ARGUMENTS``: one of the two processes, on its own processor."""

from __future__ import annotations

import importlib
import json
import os
import sys

from litmus.shared import Role, Shared


def main(place: str, text: str) -> None:
    arguments = json.loads(text)
    os.sched_setaffinity(0, [arguments["cpu"]])
    module, _, name = place.partition(":")
    function = getattr(importlib.import_module(f"litmus.{module}"), name)
    function(Shared(arguments["fd"]), Role(arguments["me"], arguments))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
