"""The driver's side of virtio-blk."""
