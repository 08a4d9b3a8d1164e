"""The drain loop, and the figures of what it moves."""
