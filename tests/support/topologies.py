"""Topology text that several test files begin with."""

from __future__ import annotations

TWO_HOSTS = """\
[hosts.rc]
[hosts.ep]
[links.pcie0]
root = "rc"
endpoint = "ep"
"""
VHOST_USER_DISK = """\
[hosts.rc]
memory = 48
[devices.disk0]
type = "blk"
transport = "vhost_user"
host = "rc"
socket = "{path}"
"""
