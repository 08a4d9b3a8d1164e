"""Rules for names of systems, their parts, and what they make on the machine."""

from __future__ import annotations

import re

__all__ = ["FILE_NAME", "NAME"]

NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
"""Names of systems, hosts, links, NTBs and devices."""
FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}")
"""Names of namespaces and interfaces, which the kernel shows as files."""
