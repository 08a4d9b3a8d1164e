"""The figures of a running system for Prometheus."""
