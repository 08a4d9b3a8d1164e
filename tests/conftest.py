"""Settings that all tests share."""

from __future__ import annotations

import hypothesis

pytest_plugins = ["machine", "pytester", "requirements_report", "ring_rig", "state_rig", "tun_rig", "up_rig"]

# Machines that run tests are shared and slow at times: examples are bounded by number, never by time.
hypothesis.settings.register_profile("vnet", deadline=None, print_blob=True)
hypothesis.settings.load_profile("vnet")
