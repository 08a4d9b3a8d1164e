"""Topology files: reading and checking them, the support matrix, samples, and extensions."""

from vnet.topology.topology import DEFAULT, Topology, load, parse, parse_device, read

__all__ = ["DEFAULT", "Topology", "load", "parse", "parse_device", "read"]
