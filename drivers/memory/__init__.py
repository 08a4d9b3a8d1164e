"""Allocation of buffers and rings in memory that a device can reach."""
