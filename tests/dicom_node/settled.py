"""Studies that retention may take, for its tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from pydicom.dataset import Dataset

from dicom_node import retention
from dicom_node.commitment_messages import Reference, Request
from dicom_node.retention import Amount
from dicom_node.states import DeliveryState
from dicom_node.tables import Delivery, Instance
from tests.dicom_node.house import House

PACS = '[[delivery.destination]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 9\n'
OLD = "[retention]\nimages_days = 30\nresults_days = 60\n"
DAY_S = 86_400.0
MakeHouse = Callable[..., House]


def settled(house: House, images: list[Dataset] | None = None, **outcome: Any) -> int:
    """A study that was read, and whose results have arrived. The id of its job."""
    job_id = house.job(images)
    house.finish(house.claimed(job_id), **outcome)
    house.change(Delivery, state=DeliveryState.SENT)
    return job_id


def purge(house: House) -> Amount:
    """One round, with what config says."""
    return retention.purge(house.database, house.archive, house.config.retention)


def files(house: House, top: str = "instances") -> list[str]:
    """What lies in the archive, whoever removes from it just now."""
    folders = os.walk(house.config.archive_dir / top)  # passes over what is gone, unlike rglob
    return sorted(name for _, _, names in folders for name in names if name.endswith(".dcm"))


def plan(house: House) -> retention.Plan:
    """What a purge would do."""
    with house.database.reading() as session:
        return retention.plan(session, house.config.retention)


def ask_to_keep(house: House, count: int) -> Request:
    """A sender's request for the first instances of the study."""
    references = tuple(Reference(row.sop_class_uid, row.sop_instance_uid) for row in house.all(Instance)[:count])
    return Request("2.25.9", references)
