"""Files that a command writes its figures to."""

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
    help="Write all figures to this file, too.",
)


@contextmanager
def open_json(path: Path | None) -> Iterator[Callable[[object], None]]:
    """Open the file before the work that it is for; gives what writes the figures, in place of older contents.

    If nothing is written, a file that was there stays as it was, and no new one is left. Raises OSError.
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
