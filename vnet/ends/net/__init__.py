"""The ends of network devices: packet ports, and the settings that can change while a device runs."""
