"""Buses, device types and transports: what both sides of a virtio device do, over hardware they are given."""
