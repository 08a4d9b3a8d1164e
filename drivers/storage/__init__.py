"""Requests of blk and scsi that survive resets of their device."""
