"""The device's side of virtio-net."""
