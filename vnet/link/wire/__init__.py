"""A link that carries transaction layer packets as bytes, between two ports with a data link layer each."""
