"""The ends of network devices."""
