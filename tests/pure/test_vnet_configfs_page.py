"""The tables of docs/configfs.md have the attributes and the directories of the tree."""

from __future__ import annotations

import re
from pathlib import Path

from vnet.configfs.functions import HEADER, INTERRUPTS, NTB_ATTRIBUTES, function_drivers
from vnet.ends.rpmsg import ChannelSpec
from vnet.topology.reference import keys_of

PAGE = (Path(__file__).parents[2] / "docs" / "configfs.md").read_text(encoding="utf-8")


def test_the_table_of_attributes_has_all_of_them() -> None:
    table = PAGE.partition("\n| attribute |")[2].partition("\n\n")[0]
    named = {name for line in table.splitlines() for name in re.findall(r"`(\w+)`", line.split(" | ")[0])}
    channel = {key.name for key in keys_of(ChannelSpec)} - {"name"}
    assert named == {"start", "type", *HEADER, *INTERRUPTS, *NTB_ATTRIBUTES, *channel}


def test_the_page_names_every_driver_of_functions() -> None:
    for name in function_drivers():
        assert f"`{name}`" in PAGE
