"""The virtio bus, the vhost bus, and a device's queue on them."""
