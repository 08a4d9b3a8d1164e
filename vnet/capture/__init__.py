"""Captures: events of a running system as pcapng, as a timeline and as lines of text. Without I/O."""
