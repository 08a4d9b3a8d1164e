"""A prompt whose statements await, fail, and go on."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio

from vnet.cli.console import PROMPTS, Console


def typed(lines: str, prompts: list[str]) -> Callable[[str], str]:
    """Return a reader of these lines, which appends the prompts to a list."""
    rest = iter(lines.splitlines())

    def read(prompt: str) -> str:
        prompts.append(prompt)
        try:
            return next(rest)
        except StopIteration:
            raise EOFError from None

    return read


async def run(lines: str, **names: object) -> tuple[int, list[str]]:
    prompts: list[str] = []
    return await Console({"trio": trio, **names}, typed(lines, prompts)).run(), prompts


async def test_statements_await_and_show_their_values(capsys: pytest.CaptureFixture[str]) -> None:
    assert (await run("a = 6 * 7\na\nawait trio.sleep(0)\nawait trio.to_thread.run_sync(lambda: 'b')"))[0] == 0
    assert capsys.readouterr().out == "42\n'b'\n"


async def test_a_statement_of_several_lines_has_another_prompt(capsys: pytest.CaptureFixture[str]) -> None:
    _, prompts = await run("for i in range(2):\n    print(i)\n\nprint('end')")
    assert prompts == [PROMPTS[0], PROMPTS[1], PROMPTS[1], PROMPTS[0], PROMPTS[0]]
    assert capsys.readouterr().out == "0\n1\nend\n"


async def test_a_last_block_without_an_empty_line_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    await run("for i in range(2):\n    print(i)")
    assert capsys.readouterr().out == "0\n1\n"


async def test_errors_show_their_traceback_and_the_prompt_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    await run("1/0\n)\nawait nothing()\n'still here'")
    shown = capsys.readouterr()
    assert shown.out == "'still here'\n"
    for error in ("ZeroDivisionError", "SyntaxError", "NameError"):
        assert error in shown.err
    assert "console.py" not in shown.err


@pytest.mark.parametrize(
    ("statement", "status"), [("raise SystemExit", 0), ("raise SystemExit(3)", 3), ("raise SystemExit('no')", 1)]
)
async def test_system_exit_ends_the_prompt(statement: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert (await run(f"{statement}\nprint('not here')"))[0] == status
    assert capsys.readouterr().out == ""


async def test_ctrl_c_ends_a_statement_and_discards_an_unfinished_one(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    assert (await run("interrupt()\n'next'", interrupt=interrupt))[0] == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("'next'\n", "\nKeyboardInterrupt\n")


async def test_a_cancelled_prompt_leaves_no_statement_behind() -> None:
    with trio.move_on_after(1) as scope:
        await run("await trio.sleep_forever()")
    assert scope.cancelled_caught
