"""Cases of virtio-pci functions, by the registers that they are about."""
