"""Prerequisites of the machine: each has a state, and what is missing has a command and what works without it."""

from __future__ import annotations

import stat
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from vnet import doctor
from vnet.doctor import Finding, Grade, examine


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is all of PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def add_program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def named(name: str) -> Finding:
    return next(finding for finding in examine() if finding.name == name)


def test_every_problem_has_a_command_and_a_list_of_what_works_without_it(programs: Path) -> None:
    findings = examine()
    assert len({finding.name for finding in findings}) == len(findings)
    for finding in findings:
        amiss = finding.grade is not Grade.OK
        assert (bool(finding.mend), bool(finding.without)) == (amiss, amiss), finding
        assert finding.state, finding
        assert finding.needed_for, finding


def test_a_missing_program_is_installed_by_its_debian_package(programs: Path) -> None:
    finding = named("ping")
    assert (finding.grade, finding.mend) == (Grade.MISSING, "sudo apt-get install -y iputils-ping")
    assert finding.optional


def test_a_program_shows_the_version_that_it_prints(programs: Path) -> None:
    add_program(programs, "iperf3", "echo 'iperf 3.12 (cJSON 1.7.15)'")
    assert (named("iperf3").grade, named("iperf3").state) == (Grade.OK, "3.12")


@pytest.mark.parametrize("script", ["exit 1", "echo no number", r"printf '\377\376'"])
def test_a_program_without_a_version_is_there_all_the_same(programs: Path, script: str) -> None:
    add_program(programs, "iperf3", script)
    assert (named("iperf3").grade, named("iperf3").state) == (Grade.OK, str(programs / "iperf3"))


def test_a_program_that_never_answers_does_not_hold_up_the_report(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "PROBE_SECONDS", 0.1)
    add_program(programs, "iperf3", "read line; exec /bin/sleep 60")
    assert named("iperf3").grade is Grade.OK


@pytest.mark.parametrize(("version", "grade"), [("7.2.22", Grade.LIMITED), ("10.1.0", Grade.OK), ("11.1.3", Grade.OK)])
def test_an_old_qemu_is_limited(programs: Path, version: str, grade: Grade) -> None:
    add_program(programs, "qemu-system-x86_64", f"echo 'QEMU emulator version {version} (Debian)'")
    finding = named("qemu-system-x86_64")
    assert (finding.grade, finding.state) == (grade, version)


def test_a_missing_package_of_python_is_not_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "trio":
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(doctor, "version", version)
    finding = named("package trio")
    assert (finding.grade, finding.optional) == (Grade.MISSING, False)
    assert finding.mend.endswith("-m pip install trio")


def test_every_dependency_of_the_package_is_looked_at() -> None:
    names = {finding.name for finding in examine()}
    assert {"package trio", "package attrs", "package python-pytun", "package scapy"} <= names
    assert "package pytest" not in names, "extras that no command needs are left out"


@pytest.mark.parametrize(
    ("package", "extra", "command"),
    [
        ("prometheus-client", "metrics", "metrics"),
        ("starlette", "web", "web"),
        ("hypercorn", "web", "web"),
        ("pyfuse3", "fuse", "mount"),
        ("ray", "ray", "campaign --backend ray"),
    ],
)
def test_a_package_of_an_extra_is_optional(
    monkeypatch: pytest.MonkeyPatch, package: str, extra: str, command: str
) -> None:
    def version(name: str) -> str:
        if name == package:
            raise PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(doctor, "version", version)
    finding = named(f"package {package}")
    assert (finding.grade, finding.optional, finding.needed_for) == (Grade.MISSING, True, f"vnet {command}")
    assert finding.mend.endswith(f"-m pip install 'vnet-virtio[{extra}]'")


def test_a_machine_without_tun_says_what_works_without_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "TUN_DEVICE", tmp_path / "tun")
    finding = named(str(tmp_path / "tun"))
    assert (finding.grade, finding.mend) == (Grade.MISSING, "sudo modprobe tun")
    assert "vnet demo --port memory" in finding.without


@pytest.mark.parametrize(("exists", "mend"), [(False, "sudo modprobe fuse"), (True, 'sudo "$(command -v vnet)" ...')])
def test_a_machine_without_fuse_says_what_works_without_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, exists: bool, mend: str
) -> None:
    device = tmp_path / "fuse"
    if exists:
        device.touch()
    monkeypatch.setattr(doctor, "FUSE_DEVICE", device)
    monkeypatch.setattr("os.access", lambda *_: False)
    finding = named(str(device))
    assert (finding.grade, finding.mend, finding.without) == (Grade.MISSING, mend, "vnet cfs")


def test_a_right_that_is_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "has_capability", lambda number: False)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    finding = named("CAP_NET_ADMIN")
    assert (finding.grade, finding.mend) == (Grade.MISSING, 'sudo "$(command -v vnet)" ...')


def test_an_old_kernel_lacks_the_segmentation_of_udp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.uname", type("Uname", (), {"release": "6.1.0-28-amd64"}))
    assert named("Linux").grade is Grade.LIMITED


@pytest.mark.parametrize(
    ("why", "grade", "mend"),
    [("", Grade.OK, ""), ("not built", Grade.LIMITED, "gcc"), ("switched off by VNET_PURE", Grade.LIMITED, "unset")],
)
def test_the_native_plain_path_is_built_or_says_why_not(
    programs: Path, monkeypatch: pytest.MonkeyPatch, why: str, grade: Grade, mend: str
) -> None:
    monkeypatch.setattr(doctor, "NATIVE", not why)
    monkeypatch.setattr(doctor, "WHY_NOT", why)
    finding = named("native plain path")
    assert (finding.grade, finding.state) == (grade, why or "built")
    assert mend in finding.mend
    assert finding.optional
