"""A house that sent its results to a PACS, and the steps by which it finds out whether they arrived for certain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from dicom_node import commitment_service, deliveries
from dicom_node.confirmer import confirm_due
from dicom_node.db import Database
from dicom_node.deliverer import deliver_due
from dicom_node.scp import Listener
from dicom_node.states import DeliveryState
from dicom_node.tables import AuditEvent, Delivery
from tests.dicom_node.house import House
from tests.dicom_node.test_deliverer import TIMES
from tests.dicom_node.test_deliverer import destination as impatient_destination
from tests.peers.committing_pacs import CommittingPacs

SENT, COMMITTED, PENDING, DEAD = (
    DeliveryState.SENT,
    DeliveryState.COMMITTED,
    DeliveryState.PENDING,
    DeliveryState.DEAD,
)
COMMIT, READ_BACK = "commitment = true\n", "read_back = true\n"
Make = Callable[..., House]


def destination(port: int, ae_title: str = "PACS") -> str:
    """A section of config.toml with time enough for a busy machine."""
    return impatient_destination(port, ae_title=ae_title).replace("timeout_s = 3.0", "timeout_s = 60.0")


def confirmation(wait_s: float = 60.0, *, rounds: int = 2) -> str:
    """Lines of config.toml."""
    return f"[confirmation]\nreport_wait_s = {wait_s}\nmax_rounds = {rounds}\n"


def sending_to(make: Make, pacs: CommittingPacs, how: str = COMMIT, *, rest: str = "") -> House:
    """A house whose SEG and SR were just sent."""
    house = make(TIMES + destination(pacs.port) + how + (rest or confirmation()))
    house.finish(house.claimed())
    send(house)
    return house


def send(house: House) -> None:
    """What is due, now."""
    house.change(Delivery, not_before=None)
    deliver_due(house.database, house.config, house.config.archive_dir)


def confirm(house: House, *, later_s: float = deliveries.TOGETHER_S) -> None:
    """The next step of confirmation, as if so much time had passed."""
    for delivery in house.all(Delivery):
        sent_at = delivery.sent_at and delivery.sent_at - timedelta(seconds=later_s)
        confirm_at = delivery.confirm_at and delivery.confirm_at - timedelta(seconds=later_s)
        with house.database.session() as session:
            row = session.get_one(Delivery, delivery.id)
            row.sent_at, row.confirm_at = sent_at, confirm_at
    confirm_due(house.database, house.config)


def states(house: House) -> list[DeliveryState]:
    """Of all deliveries."""
    return [delivery.state for delivery in house.all(Delivery)]


def events(house: House) -> list[str]:
    """What the history says."""
    return [event.kind for event in house.all(AuditEvent)]


def uid_of(house: House, number: int = 0) -> str:
    """The SOP Instance UID of a delivery's result."""
    with house.database.reading() as session:
        return session.get_one(Delivery, house.all(Delivery)[number].id).result.sop_instance_uid


@contextmanager
def listening(house: House, port: int = 0) -> Iterator[int]:
    """The house's listener, as `dicom-node serve` composes it. Its port."""
    listener_config = house.config.listener.model_copy(update={"port": port})
    listener = Listener(
        house.config.model_copy(update={"listener": listener_config}),
        house.engine,
        house.archive,
        listener_id="test/commit",
        services=commitment_service.services(Database(house.engine), house.archive, house.config),
        service_sop_classes=commitment_service.SOP_CLASSES,
    )
    listener.start()
    try:
        yield listener.port
    finally:
        listener.stop(1.0)
