"""The virtio bus, the vhost bus, and the queues of their devices."""
