"""Requests of blk and scsi, which outlive resets of their device."""
