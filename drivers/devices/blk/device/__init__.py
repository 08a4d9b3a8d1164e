"""The device's side of virtio-blk."""
