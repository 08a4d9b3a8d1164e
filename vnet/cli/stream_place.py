"""The type of options that say where the stream of a link leads."""

from __future__ import annotations

import click

from vnet.stream.address import parse_address
from vnet.topology.part import Place

__all__ = ["GivenPlace", "StreamPlace"]

GivenPlace = tuple[str, Place]
"""Name of a link, "" without one, and the place."""


class StreamPlace(click.ParamType[GivenPlace]):
    """``[LINK=]ADDRESS``."""

    name = "address"

    def __init__(self, *, listens: bool) -> None:
        self._listens = listens

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> GivenPlace:
        text = str(value)
        link, equals, address = text.partition("=")
        if not equals or "/" in link:
            link, address = "", text
        try:
            return link, Place(parse_address(address), self._listens)
        except ValueError as error:
            self.fail(f"{text!r}: {error}", param, ctx)
