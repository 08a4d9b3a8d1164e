"""The device's side of virtio-rpmsg."""
