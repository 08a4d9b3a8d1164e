"""The marks for requirements refuse unknown ids, and the reports count what is marked."""

from __future__ import annotations

import pytest

from support import requirements as report

TESTS = """
    import pytest

    @pytest.mark.virtio("SPLIT-DRV-2", "SPLIT-DRV-3")
    @pytest.mark.hostile("R04")
    def test_one():
        assert False, "a report runs nothing"

    @pytest.mark.virtio("SPLIT-DRV-3", "SPLIT-DRV-9")
    @pytest.mark.parametrize("num", [1, 2])
    def test_two(num):
        assert False, "a report runs nothing"
"""


def run(pytester: pytest.Pytester, *args: str) -> pytest.RunResult:
    return pytester.runpytest_inprocess("-p", "support.requirements", "--strict-markers", *args)


def test_both_tables_are_whole() -> None:
    virtio, hostile = report.read_virtio(), report.read_hostile()
    assert (len(virtio), len(hostile)) == (856, 164)
    assert len(set(virtio)) == len(virtio)
    assert len(set(hostile)) == len(hostile)


def test_known_ids_change_nothing_about_a_run(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    run(pytester).assert_outcomes(failed=3)


@pytest.mark.parametrize("mark", ["virtio", "hostile"])
def test_an_unknown_id_fails_the_collection_and_is_named(pytester: pytest.Pytester, mark: str) -> None:
    pytester.makepyfile(f"import pytest\n@pytest.mark.{mark}('SPLIT-DRV-9999')\ndef test_it(): pass\n")
    result = run(pytester)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*::test_it: unknown {mark} id 'SPLIT-DRV-9999'"])


@pytest.mark.parametrize("arguments", ["", "ids='R04'"])
def test_a_mark_without_ids_fails_the_collection(pytester: pytest.Pytester, arguments: str) -> None:
    pytester.makepyfile(f"import pytest\n@pytest.mark.hostile({arguments})\ndef test_it(): pass\n")
    result = run(pytester)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*::test_it: mark 'hostile' takes ids, at least one, and nothing else"])


def test_the_virtio_report_counts_and_lists_per_area_and_runs_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    result = run(pytester, "--virtio-report")
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes()
    result.stdout.fnmatch_lines(
        [
            "SPLIT-DRV    covered   3   uncovered  25   of  28",
            "    covered    SPLIT-DRV-2..3 SPLIT-DRV-9",
            "    uncovered  SPLIT-DRV-1 SPLIT-DRV-4..8 SPLIT-DRV-10..28",
            "all          covered   3   uncovered 853   of 856",
        ]
    )
    result.stdout.no_fnmatch_line("*hostile:*")


def test_the_hostile_report_counts_what_k_and_m_deselect(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS)
    result = run(pytester, "--hostile-report", "-k", "test_two")
    result.stdout.fnmatch_lines(["R            covered   1   uncovered  24   of  25", "    covered    R04"])


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["R01"], "R01"),
        (["R09", "R10", "R12"], "R09..10 R12"),
        (["NET-DEV-1", "NET-DEV-3", "NET-DEV-4"], "NET-DEV-1 NET-DEV-3..4"),
    ],
)
def test_neighbouring_ids_are_joined(names: list[str], text: str) -> None:
    assert report.ranges(names) == text
