"""A link between processes: its packets are bytes of a stream."""
