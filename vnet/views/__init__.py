"""The records of a snapshot of a running system: frozen, filled by the parts themselves, read by the command line.

The records import little, so that a program which only reads them starts fast.
"""
