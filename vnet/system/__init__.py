"""A running system: its world, its state file, its control socket, and devices served to other processes."""
