"""Results of QEMU's commands have exactly the members that QEMU's have, in QEMU's order."""

from __future__ import annotations

import attrs
import pytest

from vnet.qmp.qapi import QapiRecord, member
from vnet.qmp.virtio_records import Element, RingDesc, VhostQueueStatus, VhostStatus, VirtioStatus, VirtQueueStatus


@pytest.mark.parametrize(
    ("record", "members"),
    [
        (
            VirtioStatus,
            (
                "name device-id vhost-started device-endian guest-features host-features backend-features num-vqs "
                "status isr queue-sel vm-running broken disabled use-started started start-on-kick "
                "disable-legacy-check bus-name use-guest-notifier-mask vhost-dev"
            ),
        ),
        (
            VhostStatus,
            (
                "n-mem-sections n-tmp-sections nvqs vq-index features acked-features backend-features "
                "protocol-features max-queues backend-cap log-enabled log-size"
            ),
        ),
        (
            VirtQueueStatus,
            (
                "name queue-index inuse vring-num vring-num-default vring-align vring-desc vring-avail vring-used "
                "last-avail-idx shadow-avail-idx used-idx signalled-used signalled-used-valid"
            ),
        ),
        (
            VhostQueueStatus,
            "name kick call desc avail used num desc-phys desc-size avail-phys avail-size used-phys used-size",
        ),
        (Element, "name index descs avail used"),
        (RingDesc, "addr len flags"),
    ],
)
def test_members_are_qemus(record: type[QapiRecord], members: str) -> None:
    assert [member(record, field.name) for field in attrs.fields(record)] == members.split()
