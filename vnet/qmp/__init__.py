"""The control socket of a running system. It speaks QMP, QEMU's machine protocol, with QEMU's names and shapes."""
