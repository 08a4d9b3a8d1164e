"""JSON files with the figures of a command."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

__all__ = ["json_option", "open_json"]

json_option = click.option(
    "--json",
    "json_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File for all figures as JSON.",
)


@contextmanager
def open_json(path: Path | None) -> Iterator[Callable[[object], None]]:
    """Open the file before the work starts; return a function that writes figures over its contents.

    If the work fails, an existing file keeps its contents, and a new one is removed. Raises OSError.
    """
    if path is None:
        yield lambda figures: None
        return
    existed = path.exists()
    with path.open("a", encoding="utf-8") as file:

        def write(figures: object) -> None:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                file.truncate(0)
            file.write(json.dumps(figures, indent=2) + "\n")

        try:
            yield write
        except BaseException:
            if not existed:
                path.unlink(missing_ok=True)
            raise
