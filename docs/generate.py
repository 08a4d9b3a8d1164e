"""Write what is generated in this folder: pages, the schema, and manual pages.

python docs/generate.py            write the files
python docs/generate.py --check    exit with 1, and name them, if any is out of date
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import click
from click_man.core import write_man_pages

from vnet.cli.extcap import command as extcap
from vnet.cli.group import main
from vnet.graph.build import of_topology
from vnet.graph.svg import to_svg
from vnet.qmp.reference import reference as qmp_reference
from vnet.topology import load
from vnet.topology.reference import json_schema, reference
from vnet.version import __version__

HERE = Path(__file__).parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT / "tests"))
from campaigns import page as campaigns_page  # noqa: E402  below tests/, which is no package that is installed
from fuzz import page as fuzz_page  # noqa: E402
from isolation import page as isolation_page  # noqa: E402
from litmus import page as litmus_page  # noqa: E402
from mutations.count import count  # noqa: E402
from mutations.table import read_table  # noqa: E402

from support import seeds as seeds_page  # noqa: E402
from support.requirements import ranges  # noqa: E402

PACKAGES = ("rings", "drivers", "vnet")
WIDTH = 100
DATE = "2026"
"""Shown in the manual pages."""

TOPOLOGY = """\
# Topology files

<!-- Written by docs/generate.py from the records; do not edit. -->

A topology file is [TOML](https://toml.io). It names hosts, the links and NTBs that join them, and devices with
their two ends. `vnet up FILE` builds it, and `vnet validate FILE` checks it. Each unknown key, impossible
value and conflict between two parts is one line: file, key, value, reason. All problems of a file are reported in the
order of the file, the first 100 of them in full. A check that needs a valid record waits until the record is valid.

Editors that know TOML complete and check a file that begins with `#:schema vnet.schema.json`; `vnet schema` prints
that [schema](vnet.schema.json). [The gallery](gallery.md) has a file for each use case.

"""

QMP = """\
# QMP commands and events

<!-- Written by docs/generate.py from the records; do not edit. -->

The [control socket](qmp.md) of a running system takes these commands and sends these events. Members in brackets
may be left out. `query-qmp-schema` has the types of all of them; commands that begin with `x-` may change.

"""

COMMANDS = """\
# Commands

<!-- Written by docs/generate.py from the commands; do not edit. -->

"""


CONFORMANCE = """\
# Conformance

<!-- Written by docs/generate.py from the marks of the tests and their mutations; do not edit. -->

The requirements of VIRTIO 1.4 (`tests/data/virtio-requirements.tsv`) and the bad inputs and faults that must harm no
other device (`tests/data/hostile-inputs.md`), by area. A requirement is *marked* if a test names it, and *proved* if an
edit of the code that violates it makes that test fail. [Testing](testing.md#marks-that-are-proved) says how to run
the edits.

"""

DECISIONS = """\
# Decisions

<!-- Written by docs/generate.py from the READMEs of the rooms; do not edit. -->

Decisions with reason and measurement. Each stands in the README of its folder.

"""


def decisions() -> str:
    """The decisions of every README of the packages."""
    parts = [DECISIONS]
    for readme in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("README.md")):
        place = readme.parent.relative_to(ROOT)
        section = readme.read_text(encoding="utf-8").partition("\n## Decisions\n")[2]
        entries = [entry for entry in section.split("\n\n") if entry.lstrip().startswith("**")]
        if entries:
            parts += [f"## {place}\n\n", "\n\n".join(entry.strip() for entry in entries), "\n\n"]
    return "".join(parts).rstrip() + "\n"


def conformance() -> str:
    """Counts of requirements, and of those that tests mark and mutations prove, by area."""
    parts = [CONFORMANCE]
    for part in count(read_table()):
        parts += [f"## {part.title[0].upper()}{part.title[1:]}\n\n", f"{part.sentence()}\n\n"]
        parts += ["| area | rows | marked | proved | marked, not proved |\n|---|---|---|---|---|\n"]
        for area, rows in part.areas().items():
            marked, unproved = (sum(name in names for name in rows) for names in (part.marked, part.unproved))
            rest = ranges(name for name in rows if name in part.unproved)
            parts.append(f"| {area.rstrip('-')} | {len(rows)} | {marked} | {marked - unproved} | {rest} |\n")
        parts.append("\n")
    return "".join(parts).rstrip() + "\n"


def testing() -> str:
    """The page as it is, with the counts of today."""
    sentences = " ".join(part.sentence() for part in count(read_table()))
    text = (HERE / "testing.md").read_text(encoding="utf-8")
    return re.sub(r"(?<=<!-- Written by docs/generate.py. -->\n\n).*\n", f"{sentences}\n", text)


def marked(name: str, parts: Mapping[str, str]) -> str:
    """The page as it is, with new text between the marks of each part."""
    text = (HERE / name).read_text(encoding="utf-8")
    for part, inner in parts.items():
        mark = f"<!-- Written by docs/generate.py: {part}. -->\n"
        before, _, rest = text.partition(mark)
        text = f"{before}{mark}\n{inner}\n<!-- End. -->{rest.partition('<!-- End. -->')[2]}"
    return text


def fuzzing() -> str:
    """The page on fuzzing, with its targets and what was measured."""
    figures = fuzz_page.figures(HERE / "results" / "fuzz.json")
    return marked("fuzzing.md", {"targets": fuzz_page.targets(), "figures": figures})


def memory_order() -> str:
    """The page on memory order, with what was measured."""
    return marked("memory-order.md", {"litmus": litmus_page.figures(HERE / "results" / "litmus.json")})


def isolation() -> str:
    """The page on isolation, with what was measured."""
    return marked("isolation.md", {"figures": isolation_page.figures(HERE / "results" / "isolation.json")})


def campaigns() -> str:
    """The page on campaigns, with their list and what was measured."""
    figures = campaigns_page.figures(HERE / "results" / "campaigns.json")
    return marked("campaigns.md", {"campaigns": campaigns_page.campaigns(), "figures": figures})


def seeds() -> str:
    """The page on campaigns of seeds, with what was measured."""
    return marked("seeds.md", {"figures": seeds_page.figures(HERE / "results" / "seeds.json")})


def _commands(group: click.Group, name: str) -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group, info_name=name)
    for word in group.list_commands(context):
        command = group.get_command(context, word)
        assert command is not None
        yield f"{name} {word}", command
        if isinstance(command, click.Group):
            yield from _commands(command, f"{name} {word}")


def _help(command: click.Command, name: str) -> str:
    context = click.Context(command, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH)
    context.help_option_names = ["-h", "--help"]
    return f"```text\n{command.get_help(context)}\n```\n"


def commands() -> str:
    """The help of every command."""
    parts = [COMMANDS, "## vnet\n\n", _help(main, "vnet")]
    for name, command in _commands(main, "vnet"):
        parts += [f"\n## {name}\n\n", _help(command, name)]
    return "".join([*parts, "\n## vnet-extcap\n\n", _help(extcap, "vnet-extcap")])


def picture(file: str) -> str:
    """The picture of a topology file."""
    return to_svg(of_topology(file, load(ROOT / file)))


def man_pages() -> dict[str, str]:
    """The manual page of every command, by file."""
    with tempfile.TemporaryDirectory() as folder:
        write_man_pages("vnet", main, version=__version__, target_dir=folder, date=DATE)
        write_man_pages("vnet-extcap", extcap, version=__version__, target_dir=folder, date=DATE)
        return {f"man/{file.name}": file.read_text(encoding="utf-8") for file in sorted(Path(folder).iterdir())}


FILES: Mapping[str, Callable[[], str]] = {
    "topology.md": lambda: TOPOLOGY + reference(),
    "commands.md": commands,
    "qmp-reference.md": lambda: QMP + qmp_reference(),
    "decisions.md": decisions,
    "conformance.md": conformance,
    "testing.md": testing,
    "campaigns.md": campaigns,
    "seeds.md": seeds,
    "isolation.md": isolation,
    "fuzzing.md": fuzzing,
    "memory-order.md": memory_order,
    "graph.svg": lambda: picture("examples/topologies/ntb.toml"),
    "vnet.schema.json": lambda: json.dumps(json_schema(), indent=2) + "\n",
}


def run(args: list[str]) -> int:
    """The exit status."""
    files = {name: make() for name, make in FILES.items()} | man_pages()
    stale = [name for name, text in files.items() if not _is(name, text)]
    if args == ["--check"]:
        print("".join(f"out of date: docs/{name}; run: python docs/generate.py\n" for name in stale), end="")
        return 1 if stale else 0
    for name in stale:
        (HERE / name).write_text(files[name], encoding="utf-8")
    return 0


def _is(name: str, text: str) -> bool:
    file = HERE / name
    return file.exists() and file.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
