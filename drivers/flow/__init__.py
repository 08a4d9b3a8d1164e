"""The drain loop, and the counters of packets and requests."""
