"""The example at the top of the interfaces runs as it stands there, for either format."""

from __future__ import annotations

import doctest

import pytest

import rings.queue
from rings.formats import FORMATS


@pytest.mark.parametrize("form", FORMATS)
def test_the_life_of_a_queue_is_as_its_example_says(form: str) -> None:
    assert rings.queue.__doc__ is not None
    text = rings.queue.__doc__.replace('FORMATS["split"]', f'FORMATS["{form}"]')
    assert form in text
    example = doctest.DocTestParser().get_doctest(text, {}, form, "rings/queue.py", 0)
    assert len(example.examples) > 10
    failed, _ = doctest.DocTestRunner().run(example)
    assert not failed
