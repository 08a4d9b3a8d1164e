"""The ``vnet`` command: the only place that prints, reads argv or exits."""

from vnet.cli.main import main

__all__ = ["main"]
