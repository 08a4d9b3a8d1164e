"""A name is one system's at a time, and what of a killed one is removed."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from support.rigs.run_dir import contents, put_stale_socket
from vnet.errors import ControlError
from vnet.names import NAME_MAX
from vnet.system import claim as claim_module
from vnet.system.claim import claim, claim_free, clean_up
from vnet.system.state import State, read_state, running, socket_path, state_path
from vnet.topology import DEFAULT, parse
from vnet.topology.samples import built_in

IN_MEMORY = parse(DEFAULT.replace('"tun"', '"memory"'))
NAME = "t-state"


TERMINAL = "/dev/pts/999999"


def put_file(path: Path) -> None:
    path.write_text("mine")


def put_link_to_socket(path: Path) -> None:
    put_stale_socket(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))


@pytest.mark.hostile("X04")
@pytest.mark.parametrize("put", [put_file, put_link_to_socket, Path.mkdir])
def test_a_file_that_is_no_socket_is_left_alone(made_run_dir: Path, put: Callable[[Path], None]) -> None:
    put(socket_path(NAME))
    before = contents(made_run_dir)
    with pytest.raises(ControlError, match="must be a socket"), claim(NAME, IN_MEMORY):
        pass
    assert sorted(before) == sorted(contents(made_run_dir))


@pytest.mark.hostile("X04")
@pytest.mark.parametrize("mode", [0o777, 0o720])
def test_a_folder_that_others_may_write_to_is_refused(run_dir: Path, mode: int) -> None:
    run_dir.mkdir()
    run_dir.chmod(mode)
    with pytest.raises(ControlError, match="without write access for other users"), claim(NAME, IN_MEMORY):
        pass
    assert contents(run_dir) == []


@pytest.mark.hostile("X04")
def test_a_folder_that_is_a_link_is_refused(run_dir: Path) -> None:
    target = run_dir.with_name("target")
    target.mkdir(mode=0o700)
    run_dir.symlink_to(target)
    with pytest.raises(ControlError, match="must be our own directory"), claim(NAME, IN_MEMORY):
        pass


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim_module, "LOCK_PAUSE", 0)


@pytest.mark.usefixtures("impatient")
def test_a_name_is_one_systems_at_a_time_and_a_file_says_whose(run_dir: Path) -> None:
    assert running(NAME) is None
    with claim(NAME, parse(DEFAULT)) as claimed:
        ours = claimed.state
        hosts = {"rc": f"{NAME}-rc", "ep": f"{NAME}-ep"}
        assert ours == State(NAME, os.getpid(), hosts, (f"{NAME}-ep", f"{NAME}-rc"))
        assert running(NAME) == read_state(NAME) == ours
        with pytest.raises(ControlError, match=f"{NAME} is running already"), claim(NAME, IN_MEMORY):
            pass
        with pytest.raises(ControlError, match=f"{NAME} is running"):
            clean_up(NAME)
        with claim("t-other", IN_MEMORY) as other:
            assert other.state.hosts == {"rc": None, "ep": None}
    assert running(NAME) is None
    assert contents(run_dir) == []


def test_the_remains_of_a_killed_process_are_removed_once(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[str] = []
    monkeypatch.setattr(claim_module, "remove_netns", removed.append)
    run_dir.mkdir(mode=0o700)
    left = {"name": NAME, "pid": 1, "hosts": {"rc": f"{NAME}-rc"}, "netns": [f"{NAME}-rc", "init", f"{NAME}-../x"]}
    state_path(NAME).write_text(json.dumps(left))
    put_stale_socket(socket_path(NAME))
    assert running(NAME) is None
    actual = clean_up(NAME)
    assert actual is not None
    assert list(actual.netns) == removed == [f"{NAME}-rc"]
    assert contents(run_dir) == []
    assert clean_up(NAME) is None


def put_pipe(path: Path) -> None:
    os.mkfifo(path)


def put_link_to_file(path: Path) -> None:
    path.with_suffix(".elsewhere").write_text("mine")
    path.symlink_to(path.with_suffix(".elsewhere"))


@pytest.mark.parametrize("put", [put_pipe, put_link_to_file, put_stale_socket, Path.mkdir])
def test_a_path_that_is_no_file_is_left_alone(made_run_dir: Path, put: Callable[[Path], None]) -> None:
    put(state_path(NAME))
    before = contents(made_run_dir)
    for look in (running, read_state, clean_up):
        with pytest.raises(ControlError, match="must be a regular file; not opened"):
            look(NAME)
    with pytest.raises(ControlError, match="must be a regular file"), claim(NAME, IN_MEMORY):
        pass
    assert sorted(before) == sorted(contents(made_run_dir))


def test_the_sockets_and_terminals_of_a_killed_process_are_removed_and_nothing_else(made_run_dir: Path) -> None:
    paths = {word: made_run_dir / word for word in ("dead", "alive", "terminal", "link", "file", "missing")}
    put_stale_socket(paths["dead"])
    paths["terminal"].symlink_to(TERMINAL)
    paths["link"].symlink_to(paths["file"])
    paths["file"].write_text("mine")
    state_path(NAME).write_text(
        json.dumps({"pid": 1, "hosts": {}, "netns": [], "paths": [str(path) for path in paths.values()]})
    )
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(paths["alive"]))
        alive.listen()
        assert clean_up(NAME) is not None
    assert sorted(contents(made_run_dir)) == sorted(paths[word] for word in ("alive", "link", "file"))


def test_sockets_and_terminals_are_recorded_before_they_are_made(run_dir: Path) -> None:
    channels = '{ name = "a", surface = "pty", path = "tty" }, { name = "b", surface = "socket", path = "/tmp/b" }'
    topology = built_in("rpmsg", keys=f"driver = {{ channels = [{channels}] }}")
    with claim(NAME, topology) as actual:
        assert actual.state.paths == (str(Path.cwd() / "tty"), "/tmp/b")
        assert read_state(NAME) == actual.state
    with claim(NAME, built_in("blk", keys='driver = { nbd = "/tmp/nbd" }')) as actual:
        assert actual.state.paths == ("/tmp/nbd",)
        actual.record(IN_MEMORY)
        recorded = read_state(NAME)
        assert recorded == actual.state
        assert not recorded.paths


def test_a_changed_system_keeps_the_namespaces_that_it_made(run_dir: Path) -> None:
    with claim(NAME, IN_MEMORY) as claimed:
        for topology in (parse(DEFAULT), IN_MEMORY, parse(DEFAULT)):
            claimed.record(topology)
            assert read_state(NAME) == claimed.state
            assert claimed.state.netns == topology.own_netns(NAME)


def test_a_free_name_has_the_first_number_that_is_free_and_stays_within_the_longest(run_dir: Path) -> None:
    long = "n" * NAME_MAX
    with claim_free("disk", IN_MEMORY) as first, claim_free("disk", IN_MEMORY) as second:
        assert (first.name, second.name) == ("disk", "disk-2")
        with claim_free(long, IN_MEMORY) as third, claim_free(long, IN_MEMORY) as fourth:
            assert (third.name, fourth.name) == (long, f"{long[:-2]}-2")
    with claim_free("disk", IN_MEMORY) as first:
        assert first.name == "disk"
    assert contents(run_dir) == []
