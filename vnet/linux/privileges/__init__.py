"""Rights of this process: its capabilities, and a user namespace that gives some to an ordinary user."""
