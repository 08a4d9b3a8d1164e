"""Observers of a device-side ring: meter, dirty log, inflight log."""
