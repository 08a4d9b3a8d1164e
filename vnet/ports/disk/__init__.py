"""Stores of sectors, and the NBD server in front of a disk."""
