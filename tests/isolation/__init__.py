"""Attacks on one queue, device, connection or client, while a disk beside it is measured.

``python -m tests.isolation`` runs them. A victim reads a disk over vhost-user, and an attack hits another device: in
the same process as the disk ("together"), or in a process of its own ("apart"), as ``vnet serve --isolate`` has them.
"""
