"""``vnet learn``: a list, text, a quiz, slides."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import click
import pytest
from click.testing import CliRunner, Result

from vnet.cli import learn
from vnet.learn.lessons import LESSONS


def run(*args: str, given: str | None = None) -> Result:
    return CliRunner().invoke(learn.command, list(args), input=given)


def test_without_a_lesson_all_are_listed() -> None:
    lines = run().output.splitlines()
    assert [line.split()[0] for line in lines] == list(LESSONS)


def test_an_unknown_lesson_is_one_line_that_lists_them() -> None:
    result = run("ring")
    assert result.exit_code == 1
    assert result.stderr == f"vnet: LESSON = 'ring': must be one of {', '.join(LESSONS)}\n"


@pytest.mark.parametrize("lesson", LESSONS)
def test_a_lesson_is_printed_without_stops_if_the_output_is_no_terminal(lesson: str) -> None:
    result = run(lesson)
    assert result.exit_code == 0
    assert f"{lesson} 1. " in result.output
    assert "Enter" not in result.output
    assert result.output == run(lesson, "--all").output


def test_all_without_a_lesson_is_all_lessons() -> None:
    output = run("--all").output
    assert all(f"{lesson} 1. " in output for lesson in LESSONS)


def test_a_quiz_judges_and_counts() -> None:
    result = run("split", "--quiz", given="no\navail.idx\n4\nmaybe\nno\n1\n")
    assert result.exit_code == 0
    assert [line.strip() for line in result.output.splitlines() if line.strip().startswith(("Right", "Wrong"))] == [
        "Right: no.",
        "Right: avail.idx.",
        "Wrong: 22. It is 6.",
        "Right: no.",
        "Right: avail.ring[0].",
    ]
    assert "Answer with a number from 1 to 2, or with the word; q ends." in result.output
    assert result.output.endswith("4 of 5 answers are right.\n")


@pytest.mark.parametrize("given", ["", "no\n", "no\nq\n"])
@pytest.mark.parametrize("lesson", ["split", "hostile"])
def test_the_end_of_the_input_ends_a_quiz(lesson: str, given: str) -> None:
    result = run(lesson, "--quiz", given=given)
    assert result.exit_code == 0
    assert result.output.splitlines()[-1].endswith("answers are right.")
    assert result.stderr == ""


def test_a_question_comes_before_its_step_is_shown() -> None:
    output = run("split", "--quiz", given="no\n").output
    title, question = output.index("split 2. "), output.index("? Can the device take the chain")
    assert title < question < output.index("desc[0].addr   0x0")


def test_slides_are_written_for_one_lesson_or_all(tmp_path: Path) -> None:
    result = run("packed", "--svg", str(tmp_path / "new" / "folder"))
    slides = sorted((tmp_path / "new" / "folder").iterdir())
    assert result.output == f"{len(slides)} slides in {tmp_path / 'new' / 'folder'}\n"
    assert [slide.name for slide in slides] == [f"packed-{number:02}.svg" for number in range(1, len(slides) + 1)]
    for slide in slides:
        ElementTree.parse(slide)
    run("--svg", str(tmp_path))
    assert {file.name.rpartition("-")[0] for file in tmp_path.glob("*.svg")} == set(LESSONS)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = run("split", "--svg", str(tmp_path / "file" / "folder"))
    assert result.exit_code == 1
    assert result.stderr == f"vnet: {tmp_path}/file/folder: Not a directory\n"


def test_the_shell_completes_lessons() -> None:
    context = click.Context(learn.command)
    [argument] = (one for one in learn.command.params if one.name == "lesson")
    assert [item.value for item in argument.shell_complete(context, "s")] == ["split"]
