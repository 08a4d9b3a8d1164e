"""Results of a run as JUnit XML, which CI systems read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from vnet.check.report import details
from vnet.check.verdicts import Result, Verdict

__all__ = ["write_junit"]


def write_junit(path: Path, results: Iterable[Result], name: str, *, strict: bool = False) -> None:
    """Write a suite for each area, whose failures are those that fail the run. Raises OSError.

    CRASHED and WEDGED are errors. A WARN, a POLICY and a known finding pass, and have their details as output.
    """
    xml = JUnitXml(name)
    suites: dict[str, TestSuite] = {}
    for result in results:
        suite = suites.setdefault(result.area, TestSuite(result.area))
        suite.add_testcase(_test_case(result, name, strict))
    for suite in suites.values():
        xml.add_testsuite(suite)
    xml.write(str(path), pretty=True)


def _test_case(result: Result, name: str, strict: bool) -> TestCase:
    case = TestCase(f"{result.id} {result.title}", f"{name}.{result.area}", result.seconds)
    message = f"{result.verdict.value}: {result.seen}"
    text = "\n".join(details(result, every=True))
    if result.verdict is Verdict.SKIP:
        case.result = [Skipped(result.seen)]
    elif result.spoils(strict):
        kind = Error if result.verdict in (Verdict.CRASHED, Verdict.WEDGED) else Failure
        outcome = kind(message, result.level.value)
        outcome.text = text
        case.result = [outcome]
    elif result.verdict is not Verdict.PASS:
        case.system_out = text
    return case
