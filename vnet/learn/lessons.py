"""All lessons by name."""

from __future__ import annotations

from collections.abc import Mapping

from vnet.learn import bring_up, event_idx, hostile, indirect, packed, split
from vnet.learn.step import Lesson

__all__ = ["LESSONS"]

LESSONS: Mapping[str, Lesson] = {
    module.LESSON.name: module.LESSON for module in (split, packed, indirect, event_idx, bring_up, hostile)
}
