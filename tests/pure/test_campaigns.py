"""Campaigns: each round has its dice, broken rounds cost no other, and an interrupted run is gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from campaigns import command, kept, page
from campaigns.stage import BROKEN_MAX, Results, Stage, run_rounds
from campaigns.table import CAMPAIGNS, Campaign

ONE = Campaign("one", "nowhere:none", "something happens", goal=1000, short=2)


def dice(results: Results, rounds: range) -> list[float]:
    numbers = []

    def play(stage: Stage) -> None:
        for die in stage.rounds():
            numbers.append(die.random())
            stage.add("dice")
            stage.raise_to("largest", round(1000 * numbers[-1]))
            stage.time("back", numbers[-1])

    run_rounds(play, results, rounds)
    return numbers


def test_a_round_has_the_same_dice_wherever_a_run_begins() -> None:
    results = Results("one", 7)
    numbers = dice(results, range(5))
    assert dice(Results("one", 7, rounds=3), range(3, 5)) == numbers[3:]
    assert dice(Results("one", 8), range(5)) != numbers
    assert dice(Results("two", 7), range(5)) != numbers
    assert results.counters == {"dice": 5, "largest": max(results.times["back"])}
    assert results.times["back"] == [round(number * 1000) for number in numbers]
    assert (results.rounds, results.broken) == (5, [])


def test_a_broken_round_is_kept_and_the_others_run_in_a_new_folder() -> None:
    folders = set()
    results = Results("one", 7)

    def fail_in_the_second(stage: Stage) -> None:
        for _ in stage.rounds():
            assert not list(stage.folder.iterdir()) or stage.folder in folders
            (stage.folder / "left").touch()
            folders.add(stage.folder)
            assert results.rounds != 1, "the second"

    run_rounds(fail_in_the_second, results, range(4))
    assert [(each.round, each.error.splitlines()[0]) for each in results.broken] == [(1, "AssertionError: the second")]
    assert (results.rounds, len(folders)) == (4, 2)
    assert not any(folder.exists() for folder in folders)


def test_a_check_after_the_last_round_counts_as_broken() -> None:
    def play(stage: Stage) -> None:
        for _ in stage.rounds():
            pass
        raise OSError("left behind")

    results = Results("one", 7)
    run_rounds(play, results, range(4))
    assert [(each.round, each.error) for each in results.broken] == [(4, "OSError: left behind")]
    assert results.rounds == 4


def test_a_campaign_that_fails_each_time_ends() -> None:
    def play(stage: Stage) -> None:
        next(stage.rounds())
        raise OSError("always")

    results = Results("one", 7)
    run_rounds(play, results, range(1000))
    assert (results.rounds, len(results.broken)) == (BROKEN_MAX, BROKEN_MAX)


def test_a_result_file_is_gone_on_with_by_the_same_seed_and_commit_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "results.json"
    first = kept.Kept(file).find("one", 7)
    dice(first, range(3))
    kept.Kept(file).write(first, 9)
    other = kept.Kept(file).find("other", 8)
    kept.Kept(file).write(other, 9)
    results = kept.Kept(file).find("one", 7)
    assert results == first
    dice(results, range(9))
    kept.Kept(file).write(results, 9)
    records = kept.read(file)
    assert (list(records), records["one"]["results"][0]["rounds"]) == (["one", "other"], 9)
    assert records["one"]["command"] == "python -m tests.campaigns one --count 9 --seed 7"
    with pytest.raises(kept.KeptError, match="has 9 rounds of --seed 7"):
        kept.Kept(file).find("one", 8)
    monkeypatch.setattr(kept, "COMMIT", "another")
    with pytest.raises(kept.KeptError, match="go on there, or take this line out"):
        kept.Kept(file).find("one", 7)
    for text in ("", "[1]", '[{"results": []}]'):
        file.write_text(text)
        with pytest.raises(kept.KeptError, match="no result file"):
            kept.Kept(file)


def test_ctrl_c_saves_no_half_round() -> None:
    saved = []

    def play(stage: Stage) -> None:
        for _ in stage.rounds():
            stage.add("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_rounds(play, Results("one", 7), range(3), lambda: saved.append(1))
    assert not saved


def test_the_page_calls_what_did_not_run_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "CAMPAIGNS", {"one": ONE, "two": Campaign("two", "no:no", "no", 10, 1)})
    results = Results("one", 7)
    dice(results, range(100))
    file = tmp_path / "results.json"
    kept.Kept(file).write(results, 1000)
    text = page.figures(file)
    largest = results.counters["largest"]
    middle, most = (sorted(results.times["back"])[place] for place in (49, 98))
    assert f"| `one` | 100 of 1,000 | none | dice 100, largest {largest} | back {middle} / {most} / {largest} |" in text
    assert "| `two` | not run | | | |" in text
    assert page.percentile([3, 1, 2], 50) == 2


def test_bad_arguments_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["nothing"]) == 2
    assert capsys.readouterr().err.startswith("no campaign 'nothing': there are")
    assert command.main(["--list"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(CAMPAIGNS)
    with pytest.raises(SystemExit):
        command.main(["--count", "0"])
    assert "0: must be at least 1" in capsys.readouterr().err


def test_the_result_file_of_the_documents_has_known_campaigns() -> None:
    file = Path(__file__).parents[2] / "docs" / "results" / "campaigns.json"
    assert set(kept.read(file)) <= set(CAMPAIGNS)
    assert isinstance(json.loads(file.read_text()), list)
