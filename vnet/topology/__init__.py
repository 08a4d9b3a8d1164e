"""Topology files: reading and checking them, the support matrix, samples, and extensions."""

from vnet.topology.checks import check
from vnet.topology.part import part_of, places_of
from vnet.topology.reader import DEFAULT, load, parse, parse_device
from vnet.topology.topology import Topology

__all__ = ["DEFAULT", "Topology", "check", "load", "parse", "parse_device", "part_of", "places_of"]
