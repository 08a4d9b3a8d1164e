"""Topology files: their records, the support matrix, samples, and extensions."""
