"""The device's side of virtio-scsi: a domain of units, its tasks and its queues."""
