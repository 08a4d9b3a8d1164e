"""TUN, TAP and in-memory packet ports, with address resolution for TUN."""
