"""The kernel's management tree (configfs) of a running system: its model, its bindings, and its FUSE adapter."""
