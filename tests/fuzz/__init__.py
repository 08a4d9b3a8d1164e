"""Fuzzing: functions that take any bytes, what must hold after each, and two engines that look for bytes that break it.

``python -m tests.fuzz`` runs the targets of ``table.py`` with atheris, which is guided by coverage, or with Hypothesis.
``corpus/`` keeps inputs that reach each part of the code; ``tests/pure/test_fuzz_corpus.py`` plays them.
"""
