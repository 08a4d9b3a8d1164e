"""``vnet check``: a conformance checker for other programs' devices and drivers."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import click
import trio

from vnet.check.case import select
from vnet.check.cases import CASES
from vnet.check.driver.back import WatchingBack, watch_one
from vnet.check.driver.clauses import Observations
from vnet.check.driver.hostile import HostileRun
from vnet.check.driver.lies import LIES, Lie
from vnet.check.driver.types import DEVICES
from vnet.check.front import EVENT_IDX, INDIRECT_DESC, Front
from vnet.check.kinds import KINDS
from vnet.check.pci import PciFront
from vnet.check.peer import Peer, fill
from vnet.check.program import Program
from vnet.check.report import as_data, details, line, listing, skipped, summary
from vnet.check.runner import NoDevice, Run
from vnet.check.trial import Options
from vnet.check.verdicts import Result, Verdict, exit_status
from vnet.check.vhost_user import VhostUserFront
from vnet.cli.common import errors_in_one_line
from vnet.cli.extras import extra
from vnet.cli.output import json_option, open_json
from vnet.cli.signals import run_until_ended

__all__ = ["command"]

T = TypeVar("T")
RING_FEATURES = {"INDIRECT_DESC": INDIRECT_DESC, "EVENT_IDX": EVENT_IDX}


@click.group("check")
def command() -> None:
    """Check another program's device or driver."""


def _known(_context: click.Context, _option: click.Parameter, file: Path | None) -> frozenset[str]:
    """Return the ids in a file of known findings, one a line; # begins a comment. Raises BadParameter."""
    if file is None:
        return frozenset()
    words = [text.partition("#")[0].strip() for text in file.read_text(encoding="utf-8").splitlines()]
    ids = frozenset(filter(None, words))
    if unknown := sorted(ids - {case.id for case in CASES}):
        raise click.BadParameter(f"{file}: no case is named {', '.join(unknown)}; --list prints all of them")
    return ids


@command.command("device")
@click.argument("words", metavar="[CASE]...", nargs=-1)
@click.option(
    "--vhost-user",
    "path",
    metavar="SOCK",
    type=click.Path(path_type=Path),
    help="Unix socket where the device listens, a vhost-user back end.",
)
@click.option(
    "--vfio-user",
    "function",
    metavar="SOCK",
    type=click.Path(path_type=Path),
    help="Unix socket where a virtio-pci function listens, a vfio-user server: its registers are checked, too.",
)
@click.option("--type", "kind", type=click.Choice(list(KINDS)), help="Type of the device.")
@click.option(
    "--spawn",
    metavar="CMD",
    help="Command that starts the device; {socket} is replaced by the path of its socket, {worker} by a number from 0. "
    "It is started again after a crash.",
)
@click.option(
    "--pid", type=click.IntRange(1), help="Process of the device, whose life, CPU, memory and files are watched."
)
@click.option("--destructive", is_flag=True, help="Run cases that write to the disk: its data are lost.")
@click.option("--strict", is_flag=True, help="Fail for a broken SHOULD, too.")
@click.option("--policy", is_flag=True, help="Run cases of rules that only this project has.")
@click.option("--list", "list_only", is_flag=True, help="Print the cases, and run none.")
@click.option(
    "-j", "workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Devices to --spawn at once."
)
@click.option(
    "--timeout",
    "patience",
    type=click.FloatRange(0.05, 600),
    default=2.0,
    show_default=True,
    help="Seconds that the device has to answer.",
)
@click.option(
    "--known",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    callback=_known,
    help="File of cases that are known to fail, an id per line: they fail the run only once they pass.",
)
@json_option
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), help="File for the results as JUnit XML.")
@errors_in_one_line
def device(
    words: tuple[str, ...],
    path: Path | None,
    function: Path | None,
    kind: str | None,
    spawn: str | None,
    pid: int | None,
    destructive: bool,
    strict: bool,
    policy: bool,
    list_only: bool,
    workers: int,
    patience: float,
    known: frozenset[str],
    json_file: Path | None,
    junit: Path | None,
) -> None:
    """Check a device by honest and hostile requests.

    Each is judged by what is seen from outside, over vhost-user, or over vfio-user with all registers of a PCI
    function. A CASE is the id of a case or the beginning of ids (R04, BLK-DEV), an
    area (blk, messages), or a section of VIRTIO 1.4 (2.7.5); all cases run without one. Exit status 1 if a MUST or a
    SAFETY sentence is broken, 2 if there is no device to check.
    """
    try:
        cases = select(CASES, words)
    except LookupError as exc:
        raise click.UsageError(exc.args[0]) from None
    if path is not None and function is not None:
        raise click.UsageError("--vfio-user: only one socket is checked, and --vhost-user names one")
    carrier: type[Front] = VhostUserFront if function is None else PciFront
    path = path or function
    if list_only:
        able = [case for case in cases if path is None or case.carrier in ("", carrier.carrier)]
        click.echo("\n".join(listing(case for case in able if kind is None or not case.types or kind in case.types)))
        return
    if kind is None:
        raise click.UsageError("--type is missing: the type of the device")
    if path is None and spawn is None:
        raise click.UsageError(
            "--vhost-user or --vfio-user is missing: the socket where the device listens, or --spawn to start one"
        )
    if spawn is not None and pid is not None:
        raise click.UsageError("--pid: the process that --spawn starts is known")
    if workers > 1 and spawn is None:
        raise click.UsageError("-j: several devices at once need --spawn")
    options = Options(patience, destructive, policy)
    with ExitStack() as stack:
        write_json = stack.enter_context(open_json(json_file))
        write_junit = _junit_writer(junit)
        place = path or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vnet-check-"))) / "device.sock"
        run = Run(
            KINDS[kind],
            _peers(place, spawn, pid, workers),
            options,
            _alone(carrier, path, kind, spawn, pid, options),
            known,
            carrier,
            _report,
        )
        results, seconds = _run(run.run, cases)
        about = {"type": kind, "carrier": carrier.carrier, "spawn": spawn, "destructive": destructive}
        write_json(as_data(results, about, seconds))
        write_junit(results, f"vnet check {kind}", strict)
    click.get_current_context().exit(exit_status(results, strict=strict))


@command.command("driver")
@click.argument("words", metavar="[LIE]...", nargs=-1)
@click.option(
    "--vhost-user",
    "path",
    metavar="SOCK",
    required=True,
    type=click.Path(path_type=Path),
    help="Unix socket for the driver's vhost-user front end.",
)
@click.option(
    "--type", "kind", type=click.Choice(list(DEVICES)), required=True, help="Type of the device that is served."
)
@click.option(
    "--ring",
    type=click.Choice(["split", "packed"]),
    default="split",
    show_default=True,
    help="Virtqueue format: packed is offered only if it is given here, and drivers may still choose split.",
)
@click.option(
    "--features-off",
    multiple=True,
    type=click.Choice(list(RING_FEATURES)),
    help="Feature that is not offered. Repeatable.",
)
@click.option("--exec", "program", metavar="CMD", help="Run CMD once the socket is there; its end ends the watch.")
@click.option(
    "--hostile",
    is_flag=True,
    help="Lie to the driver, once in each run of --exec, and report whether it survives: PASS, CRASHED or WEDGED.",
)
@click.option("--list", "list_only", is_flag=True, help="Print the lies of --hostile, and tell none.")
@click.option(
    "--after",
    type=click.IntRange(0, 1 << 20),
    default=8,
    show_default=True,
    help="Requests that are served honestly before a lie of --hostile.",
)
@click.option(
    "--timeout",
    "limit",
    type=click.FloatRange(1, 3600),
    default=10.0,
    show_default=True,
    help="Seconds after a lie of --hostile in which the driver must go on, reset the device, or end.",
)
@click.option("--strict", is_flag=True, help="Fail for a broken SHOULD, too.")
@json_option
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), help="File for the results as JUnit XML.")
@errors_in_one_line
def driver(
    words: tuple[str, ...],
    path: Path,
    kind: str,
    ring: str,
    features_off: tuple[str, ...],
    program: str | None,
    hostile: bool,
    list_only: bool,
    after: int,
    limit: float,
    strict: bool,
    json_file: Path | None,
    junit: Path | None,
) -> None:
    """Watch a driver, and report each clause that it keeps or breaks.

    Serves a device: a disk in memory, also of a SCSI host, a network without stations, or a source of random bytes. The
    watch ends with the connection of the front end, with the program of --exec, or with Ctrl-C. Exit status 1 if a MUST
    is broken, 2 if the driver made no request.

    With --hostile the device lies once in each run of the program: in a used element, an index, a descriptor table, its
    configuration, a notification. A LIE is an id or the beginning of ids (D03, D07.capacity); all lies are told without
    one. A program that ends by a signal, or with a status of 128 or more, is CRASHED; one that goes on running and
    neither makes a request nor resets the device is WEDGED; both fail the run.
    """
    if list_only:
        click.echo("\n".join(f"{lie.id:20}{','.join(lie.types) or 'all':5} {lie.title}" for lie in _lies(words)))
        return
    try:
        command_words = None if program is None else shlex.split(program)
    except ValueError as exc:
        raise click.UsageError(f"--exec: {exc}") from None
    without = [RING_FEATURES[name] for name in features_off]
    packed = ring == "packed"
    alone = [
        "vnet",
        "check",
        "driver",
        "--vhost-user",
        str(path),
        "--type",
        kind,
        *(["--ring", ring] if packed else []),
    ]
    alone += [word for name in features_off for word in ("--features-off", name)]
    write_junit = _junit_writer(junit)
    if hostile:
        if command_words is None or program is None:
            raise click.UsageError("--hostile needs --exec: the driver's program is started for each lie")
        chosen = _lies(words)
        alone += ["--exec", program, "--hostile", "--after", str(after), "--timeout", f"{limit:g}"]
        run = HostileRun(
            kind, path, lambda: Program(command=command_words), limit, after, alone, without, packed, _report
        )
        with open_json(json_file) as write_json:
            results, seconds = _run(run.run, chosen)
            write_json(as_data(results, {"type": kind, "exec": program}, seconds))
            write_junit(results, f"vnet check driver --hostile {kind}", strict)
        click.get_current_context().exit(exit_status(results, strict=strict))
    if words:
        raise click.UsageError(f"{words[0]}: lies are told with --hostile")
    seen = Observations(kind, packed=packed)
    back = WatchingBack(DEVICES[kind](seen), seen, without, packed=packed)
    with open_json(json_file) as write_json:
        start = time.monotonic()
        run_until_ended(partial(_watch, path, back, command_words))
        seconds = time.monotonic() - start
        results = seen.results(alone)
        for result in results:
            click.echo(line(result))
        _show_findings(results)
        click.echo(f"{seen.requests} requests; the watch ended because {back.ended}")
        click.echo(summary(results, seconds))
        write_json(as_data(results, {"type": kind, "requests": seen.requests, "ended": back.ended}, seconds))
        write_junit(results, f"vnet check driver {kind}", strict)
    if not seen.requests:
        raise _NothingToCheck(f"{path}: no driver made a request: {back.ended}")
    click.get_current_context().exit(exit_status(results, strict=strict))


def _lies(words: Sequence[str]) -> list[Lie]:
    """Return the lies that any word begins, or all. Raises UsageError for a word that begins none."""
    for word in words:
        if not any(lie.id.startswith(word) for lie in LIES):
            raise click.UsageError(f"no lie is named {word!r}; --list prints all of them")
    return [lie for lie in LIES if not words or any(lie.id.startswith(word) for word in words)]


async def _watch(path: Path, back: WatchingBack, program: Sequence[str] | None, serving: trio.Event) -> int:
    """Watch one front end, and the program beside it, until either ends; return 0."""
    listening = trio.Event()
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            await watch_one(path, back, listening)
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        await listening.wait()
        serving.set()
        if program is None:
            click.echo(f"A device listens at {path}; Ctrl-C ends the watch.")
        else:
            done = await trio.run_process(program, check=False, stdin=subprocess.DEVNULL)
            back.ended = f"the program ended with status {done.returncode}"
            nursery.cancel_scope.cancel()
    return 0


def _junit_writer(path: Path | None) -> Callable[[Sequence[Result], str, bool], None]:
    """Return a function that writes results as JUnit XML, or does nothing without a path. Raises PrivilegeError."""
    if path is None:
        return lambda results, name, strict: None
    with extra("check"):
        from vnet.check.junit import write_junit
    return lambda results, name, strict: write_junit(path, results, name, strict=strict)


def _run(run: Callable[[Sequence[T]], Awaitable[list[Result]]], items: Sequence[T]) -> tuple[list[Result], float]:
    """Run cases or lies, and show the findings. Returns all results, and the seconds that they took.

    Raises _NothingToCheck.
    """
    start = time.monotonic()
    try:
        results = trio.run(run, items)
    except NoDevice as exc:
        raise _NothingToCheck(str(exc)) from None
    seconds = time.monotonic() - start
    _show_findings(results)
    click.echo("\n".join([*skipped(results), summary(results, seconds)]))
    return results, seconds


def _show_findings(results: Sequence[Result]) -> None:
    for result in results:
        if result.verdict not in (Verdict.PASS, Verdict.SKIP):
            click.echo("\n".join(["", *details(result)]))
    click.echo()


class _NothingToCheck(click.ClickException):
    """Ends the command with exit status 2: there is no device, or no driver."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"vnet: {' '.join(self.message.split())}", err=True)


def _report(result: Result) -> None:
    if result.verdict is not Verdict.SKIP:
        click.echo(line(result))


def _peers(path: Path, spawn: str | None, pid: int | None, workers: int) -> list[Peer]:
    """Return a device for each worker; the sockets of all but the first have a number."""
    if spawn is None:
        return [Peer(path, pid=pid)]
    places = [path, *(path.with_name(f"{path.name}.{worker}") for worker in range(1, workers))]
    try:
        return [Peer(place, command=fill(spawn, place, worker)) for worker, place in enumerate(places)]
    except ValueError as exc:
        raise click.UsageError(str(exc)) from None


def _alone(
    carrier: type[Front], path: Path | None, kind: str, spawn: str | None, pid: int | None, options: Options
) -> list[str]:
    """Return the words of the command that runs one case in the same way; the case's id follows."""
    given = {f"--{carrier.carrier}": path, "--type": kind, "--spawn": spawn, "--pid": pid}
    words = [
        "vnet",
        "check",
        "device",
        *(word for key, value in given.items() if value is not None for word in (key, str(value))),
    ]
    words += [flag for flag, on in (("--destructive", options.destructive), ("--policy", options.policy)) if on]
    return words if options.patience == Options().patience else [*words, "--timeout", f"{options.patience:g}"]
