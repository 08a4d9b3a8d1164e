"""The clauses that a foreign driver keeps or breaks while it is watched, and how often it did."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

import attrs

from vnet.check.verdicts import OF_LEVEL, Level, Result, Verdict

__all__ = ["CLAUSES", "Clause", "Observations"]

SHOWN = 3
"""Most breaches of a clause whose evidence is kept."""


@attrs.frozen
class Clause:
    """A requirement for drivers that can be seen from the device's side."""

    id: str
    section: str
    """Section of VIRTIO 1.4."""
    level: Level
    title: str
    types: frozenset[str] = frozenset()
    """Device types that it is about; empty for all."""

    @property
    def packed(self) -> bool:
        """Whether it is about packed rings."""
        return self.id.startswith("PACKED")


def _clauses(*rows: tuple[str, str, Level, str], types: str = "") -> list[Clause]:
    return [Clause(*row, frozenset(types.split())) for row in rows]


MUST, SHOULD = Level.MUST, Level.SHOULD
_ALL = [
    *_clauses(
        ("FEAT-DRV-1", "2.2.1", MUST, "Only features that were offered are accepted"),
        ("RFB-DRV-1", "6.1", MUST, "VERSION_1 is accepted"),
        ("SPLIT-DRV-1", "2.7.1", MUST, "The areas of a ring are aligned to 16, 2 and 4 bytes"),
        ("SPLIT-DRV-2", "2.7", MUST, "The queue size is a power of two, at most 32768"),
        ("SPLIT-DRV-3", "2.7.4.2", MUST, "Readable buffers come before writable ones"),
        ("SPLIT-DRV-5", "2.7.5.2", MUST, "A chain has at most 2^32 bytes"),
        ("SPLIT-DRV-8", "2.7.5.3.1", MUST, "No indirect table without INDIRECT_DESC"),
        ("SPLIT-DRV-9", "2.7.5.3.1", MUST, "No indirect table within an indirect table"),
        ("SPLIT-DRV-10", "2.7.5.3.1", MUST, "A chain has at most as many descriptors as the queue"),
        ("SPLIT-DRV-11", "2.7.5.3.1", MUST, "A descriptor that names an indirect table has no next one"),
        ("SPLIT-DRV-13", "2.7.6.1", MUST, "The available index never decreases"),
        ("SPLIT-DRV-14", "2.7.7.1", MUST, "The available flags are 0 or 1 without EVENT_IDX"),
        ("SPLIT-DRV-15", "2.7.7.1", MUST, "The available flags are 0 with EVENT_IDX"),
        ("SPLIT-DRV-20", "2.7.10.1", MUST, "The used flags are 0 when a ring is started"),
        ("SPLIT-DRV-23", "2.7.10.1", MUST, "A notification after a buffer was made available, without EVENT_IDX"),
        ("SPLIT-DRV-25", "2.7.10.1", MUST, "A notification when the available index passes avail_event"),
    ),
    *_clauses(
        ("PACKED-DRV-1", "2.8.11", MUST, "The areas of a ring are aligned to 16, 4 and 4 bytes"),
        ("PACKED-DRV-2", "2.8", MUST, "The queue size is at most 32768"),
        ("PACKED-DRV-4", "2.8.1", MUST, "Each descriptor of a list is marked available by its lap"),
        ("PACKED-DRV-7", "2.8.10", MUST, "The flags of the driver area are 0, 1, or 2 with EVENT_IDX"),
        ("PACKED-DRV-13", "2.8.17", MUST, "A list has at most as many descriptors as the queue"),
        ("PACKED-DRV-14", "2.8.17", MUST, "Readable buffers come before writable ones"),
        ("PACKED-DRV-18", "2.8.19", MUST, "No indirect table without INDIRECT_DESC"),
        ("PACKED-DRV-19", "2.8.19", MUST, "Entries of an indirect table have no flag but WRITE"),
        ("PACKED-DRV-21", "2.8.19", MUST, "A descriptor that names an indirect table is alone in its list"),
        ("PACKED-DRV-23", "2.8.21.3.1", MUST, "A notification after a buffer that the device asked to hear of"),
    ),
    *_clauses(
        ("BLK-DRV-9", "5.2.6.1", MUST, "Reads and writes end within the capacity"),
        ("BLK-DRV-11", "5.2.6.1", MUST, "The sector of a flush is 0"),
        ("BLK-DRV-12", "5.2.6.1", SHOULD, "A flush has no data"),
        ("BLK-DRV-13", "5.2.6.1", MUST, "Data of reads and writes are whole sectors"),
        ("BLK-DRV-14", "5.2.6.1", MUST, "Data of discards and write-zeroes are whole segments"),
        ("BLK-DRV-15", "5.2.6.1", MUST, "GET_ID has 20 bytes of room"),
        ("BLK-DRV-16", "5.2.6.1", MUST, "A discard has at most max_discard_seg segments"),
        ("BLK-DRV-18", "5.2.6.1", MUST, "A write-zeroes has at most max_write_zeroes_seg segments"),
        ("BLK-DRV-20", "5.2.6.1", MUST, "The flag unmap is 0 in discards"),
        types="blk",
    ),
    *_clauses(
        ("NET-DRV-26", "5.1.9.2.1", MUST, "num_buffers is 0 in frames to send"),
        ("NET-DRV-27", "5.1.9.2.1", MUST, "The flags of frames to send are 0 without CSUM"),
        ("NET-DRV-46", "5.1.9.2.1", MUST, "gso_type is NONE without a HOST GSO feature"),
        ("NET-DRV-61", "5.1.9.3.1", SHOULD, "Receive buffers have at least 1526 bytes"),
        types="net",
    ),
    *_clauses(
        ("SCSI-DRV-3", "5.6.4.1", MUST, "Only sense_size and cdb_size are written"),
        ("SCSI-DRV-8", "5.6.6.1", MUST, "LUNs are 1, the target, a single-level LUN and zeros, or that of REPORT LUNS"),
        ("SCSI-DRV-9", "5.6.6.1", SHOULD, "Commands that are at the head of the queue anyway are not ORDERED"),
        ("SCSI-DRV-10", "5.6.6.1.2", SHOULD, "task_attr, prio and crn are 0"),
        ("SCSI-DRV-13", "5.6.6.3.1", MUST, "Event buffers are writable"),
        ("SCSI-DRV-14", "5.6.6.3.1", SHOULD, "Event buffers have at least event_info_size bytes"),
        ("SCSI-DRV-15", "5.6.6.3.1", MUST, "Event buffers have room for an event"),
        types="scsi",
    ),
]
CLAUSES: Mapping[str, Clause] = {clause.id: clause for clause in _ALL}


@attrs.define
class _Count:
    kept: int = 0
    broken: int = 0
    evidence: list[str] = attrs.field(factory=list)


class Observations:
    """Counts of each clause of one device type."""

    def __init__(self, kind: str, *, packed: bool = False) -> None:
        """``packed``: whether packed rings are offered; without it their clauses are left out."""
        self._clauses = [
            clause for clause in _ALL if (not clause.types or kind in clause.types) and (packed or not clause.packed)
        ]
        self._counts = {clause.id: _Count() for clause in self._clauses}
        self.requests = 0
        """Chains that the driver made available."""

    def judge(self, ident: str, good: bool, evidence: str = "") -> bool:
        """Count a clause as kept or broken, with the bytes that show a breach; return whether it was kept."""
        count = self._counts[ident]
        if good:
            count.kept += 1
            return True
        count.broken += 1
        if len(count.evidence) < SHOWN:
            count.evidence.append(evidence)
        return False

    def results(self, alone: Sequence[str]) -> list[Result]:
        """Return a result for each clause; ``alone`` is the command that watches again."""
        return [self._result(clause, self._counts[clause.id], shlex.join(alone)) for clause in self._clauses]

    def _result(self, clause: Clause, count: _Count, alone: str) -> Result:
        if count.broken:
            verdict, seen = OF_LEVEL[clause.level], f"broken {count.broken} of {count.kept + count.broken} times"
        elif count.kept:
            verdict, seen = Verdict.PASS, "kept once" if count.kept == 1 else f"kept {count.kept} times"
        else:
            verdict, seen = Verdict.SKIP, "not seen"
        return Result(
            clause.id, clause.title, "driver", clause.section, clause.level, verdict, seen,
            sent=tuple(count.evidence), alone=alone,
        )  # fmt: skip
