"""The world around virtqueues: hosts, memory, PCI Express, links, ports, and the command line."""

__version__ = "0.1.0"
