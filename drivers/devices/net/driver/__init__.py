"""The driver's side of virtio-net."""
