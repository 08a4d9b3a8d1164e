"""Interfaces that `drivers` uses and `vnet` implements: hardware, ports, channels between processes."""
