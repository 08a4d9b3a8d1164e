"""Every input of the fuzzing corpora breaks no rule, and the engines find what does."""

from __future__ import annotations

import pytest
from fuzz import corpus
from fuzz.oracle import Judge
from fuzz.table import TARGETS, Target

from rings.native import NATIVE


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_no_input_of_a_corpus_breaks_a_rule(target: Target) -> None:
    """No error but documented ones, a bounded number of calls between checkpoints, nothing left open."""
    if target.native and not NATIVE:
        pytest.skip("the native plain path is not there")
    judge = Judge(target)
    inputs = corpus.read(target.name)
    assert inputs
    for data in [b"", *inputs]:
        judge(data, counted=True)


def test_every_corpus_belongs_to_a_target() -> None:
    assert {path.stem for path in corpus.FOLDER.glob("*.txt")} == set(TARGETS)
