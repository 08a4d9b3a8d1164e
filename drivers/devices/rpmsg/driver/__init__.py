"""The driver's side of virtio-rpmsg."""
