"""The driver's side of virtio-scsi."""
