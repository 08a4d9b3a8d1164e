"""Memory order between two processes: litmus tests of single accesses, and rings that hand chains over.

``python -m tests.litmus`` runs them for long; ``tests/pure/test_rings_memory_order.py`` runs a short form. Each has
mutants, in which a fence or an undivided store is missing. Two processes run on a processor each.
"""
