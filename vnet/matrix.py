"""Which device type runs on which transport, and how: made from the registry, so that no page can claim more."""

from __future__ import annotations

from drivers.registry import DEVICES, TRANSPORTS
from vnet.ends import ENDS

__all__ = ["matrix"]


def matrix() -> str:
    """The table as Markdown: in each cell the modes that exist."""
    columns = list(TRANSPORTS)
    lines = [f"| device | {' | '.join(f'`{name}`' for name in columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name in DEVICES:
        cells = " | ".join(_modes(name, transport) for transport in columns)
        lines.append(f"| `{name}` | {cells} |")
    return "\n".join(lines)


def _modes(device: str, transport: str) -> str:
    mediated = ENDS[device].mediator is not None and TRANSPORTS[transport].on != "host"
    return "direct, mediated" if mediated else "direct"
