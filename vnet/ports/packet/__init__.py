"""TUN, TAP and in-memory packet ports, and what they need of the network."""
