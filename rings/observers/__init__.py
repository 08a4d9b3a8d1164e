"""What watches a ring from the side of the device: meter, dirty log, inflight log."""
