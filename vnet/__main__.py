"""``python -m vnet`` is the command ``vnet``."""

from __future__ import annotations

from vnet.cli.start import start

if __name__ == "__main__":
    start()
