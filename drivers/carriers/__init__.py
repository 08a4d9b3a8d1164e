"""Carriers of virtio devices: PCI functions, endpoint functions, platform slots, NTBs, vhost-user sockets."""
