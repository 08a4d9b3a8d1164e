"""Rights of this process: its capabilities, a user namespace that gives it some, a sandbox that takes them."""
