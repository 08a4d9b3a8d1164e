"""Lessons about virtqueues and virtio-pci, played on the real rings and transports of this package."""
