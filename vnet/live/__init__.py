"""Rates of a running system, from two looks at it."""
