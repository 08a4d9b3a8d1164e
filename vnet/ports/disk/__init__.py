"""Sector stores, and an NBD server for a disk."""
