"""Campaigns against real processes: many seeded rounds of a fault under verified load, with raw counters of each.

``python -m tests.campaigns`` runs those of ``table.py``; ``tests/system/test_campaigns.py`` runs a few rounds of each.
"""
