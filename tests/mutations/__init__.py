"""Prove the marks of the tests: break the code in memory, and watch a marked test fail.

``table/*.toml`` has an edit of the code for each requirement. ``python -m tests.mutations`` applies each edit in a
process of its own and runs the test that must notice it.
"""
