"""Interfaces of a namespace, followed by netlink messages."""
