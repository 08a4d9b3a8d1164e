"""Topology files: reading and checking them, the support matrix, samples, and extensions."""
