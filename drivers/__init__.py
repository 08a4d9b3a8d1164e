"""Buses, device types and transports: both sides of a virtio device, over hardware passed in by the caller."""
