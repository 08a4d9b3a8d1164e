"""Interfaces of rpmsg channels for programs: a socket or a terminal."""
