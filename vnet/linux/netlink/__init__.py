"""Watches the interfaces of a namespace by netlink messages."""
