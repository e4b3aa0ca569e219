"""Senders that ask this node to commit are told exactly what it holds, on their association or on a new one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, evt
from pynetdicom.association import Association
from structlog.testing import capture_logs

from dicom_node import owed_reports, reports
from dicom_node.commitment_messages import Reference, Request
from dicom_node.db import now
from dicom_node.owed_reports import owe
from dicom_node.reporter import report_due
from dicom_node.tables import AuditEvent, Instance, OwedReport
from tests.dicom_factory import write
from tests.dicom_node.confirming import listening
from tests.dicom_node.house import House, head_ct
from tests.dicom_node.raw_peer import RawPeer, pdv
from tests.peers import HOST, Orthanc, free_port, wait_until

# pynetdicom drops the socket of a connection that failed without closing it.
pytestmark = pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning")
PUSH_MODEL, PUSH_MODEL_INSTANCE = "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1"
CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
Make = Callable[..., House]
TIMES = "[delivery]\nretry_first_s = 0.05\nretry_longest_s = 0.2\n"


@dataclass
class Told:
    """A report that the sender got."""

    transaction_uid: str
    event_type: int
    committed: set[str]
    failed: dict[str, int]


@dataclass
class Sender:
    """A modality that asks for commitment, and takes reports on its association and on its own port."""

    answer: int = 0
    """Status with which it answers a report."""
    told: list[Told] = field(default_factory=list)

    def take(self, event: evt.Event) -> tuple[int, None]:
        """An N-EVENT-REPORT."""
        information = event.event_information
        kept = [str(item.ReferencedSOPInstanceUID) for item in information.get("ReferencedSOPSequence", [])]
        lost = {str(i.ReferencedSOPInstanceUID): int(i.FailureReason) for i in information.get("FailedSOPSequence", [])}
        self.told.append(Told(str(information.TransactionUID), int(event.event_type or 0), set(kept), lost))
        return self.answer, None

    @contextmanager
    def associated(self, port: int, *, syntax: str = ExplicitVRLittleEndian) -> Iterator[Association]:
        """An association with the node."""
        ae = AE("CT1")
        ae.add_requested_context(PUSH_MODEL, syntax)
        assoc = ae.associate(HOST, port, ae_title="ICHNODE", evt_handlers=[(evt.EVT_N_EVENT_REPORT, self.take)])
        assert assoc.is_established
        try:
            yield assoc
        finally:
            assoc.release()

    @contextmanager
    def serving(self, port: int) -> Iterator[None]:
        """It listens for reports; the node opens the association and says that it is the SCP."""
        ae = AE("CT1")
        ae.add_supported_context(PUSH_MODEL, scu_role=False, scp_role=True)
        server = ae.start_server((HOST, port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, self.take)])
        assert server is not None
        try:
            yield
        finally:
            server.shutdown()


def ask(assoc: Association, references: dict[str, str], transaction_uid: str = "2.25.9") -> int:
    """N-ACTION for instances with their classes. Its status."""
    information = Dataset()
    information.TransactionUID = transaction_uid
    information.ReferencedSOPSequence = [_item(sop_class, uid) for uid, sop_class in references.items()]
    status, _ = assoc.send_n_action(information, 1, PUSH_MODEL, PUSH_MODEL_INSTANCE)
    return int(status.Status)


def _item(sop_class: str, uid: str) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
    return item


def holding(make: Make, *, rest: str = "", hold_s: float = 0.05) -> House:
    """A house with three slices."""
    house = make(f"[listener]\nreport_hold_s = {hold_s}\n{rest}{TIMES}")
    house.receive(head_ct(slices=3))
    return house


def held(house: House) -> dict[str, str]:
    """SOP Instance UID -> SOP Class UID of what it received."""
    return {row.sop_instance_uid: row.sop_class_uid for row in house.all(Instance)}


def peer(port: int) -> str:
    """Lines that say where the sender itself listens."""
    return f'[[listener.peer]]\nae_title = "CT1"\nhost = "{HOST}"\nport = {port}\ntimeout_s = 60.0\n'


def file_of(house: House, uid: str) -> Path:
    """An instance's file."""
    (path,) = [row.path for row in house.all(Instance) if row.sop_instance_uid == uid]
    return house.archive.path(path)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_sender_that_stays_is_told_on_its_association(make_house: Make, syntax: str) -> None:
    """All of what it asked about is held: event type 1."""
    house, sender = holding(make_house), Sender()
    with listening(house) as port, sender.associated(port, syntax=syntax) as assoc:
        assert ask(assoc, held(house)) == 0
        wait_until(lambda: bool(house.all(OwedReport)[0].reported_at), what="the report")
        with house.database.reading() as session:
            assert reports.ledger(session)["commitments_asked_by_peers"]["owed"] == 0
    assert sender.told == [Told("2.25.9", 1, set(held(house)), {})]
    (owed,) = house.all(OwedReport)
    assert (owed.committed_count, owed.failed_count) == (3, 0)
    assert house.all(AuditEvent)[-1].kind == "commitment reported to a peer"


def test_exactly_what_is_held_durably_is_committed(make_house: Make) -> None:
    """Not what never came, what has another class, whose file is gone, cut, or has another bit."""
    house, sender = holding(make_house), Sender()
    house.receive(head_ct(slices=2, study_uid="2.25.7", series_uid="2.25.8"))
    references = held(house)
    good, gone, cut, flipped, classed = sorted(references)
    file_of(house, gone).unlink()
    whole = file_of(house, cut).read_bytes()
    file_of(house, cut).write_bytes(whole[:-1])
    whole = file_of(house, flipped).read_bytes()
    file_of(house, flipped).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    references |= {classed: MR, "2.25.404": CT}
    with listening(house) as port, sender.associated(port) as assoc:
        assert ask(assoc, references) == 0
        wait_until(lambda: bool(sender.told), what="the report")
    failed = {gone: 0x0112, cut: 0x0112, flipped: 0x0112, classed: 0x0119, "2.25.404": 0x0112}
    assert sender.told == [Told("2.25.9", 2, {good}, failed)]


def test_a_uid_that_no_instance_can_have_is_reported_as_not_held(make_house: Make) -> None:
    """And keeps no other report of its sender back: PostgreSQL cannot even be asked about a NUL."""
    house = make_house()
    house.receive(head_ct(slices=2))
    held = [Reference(row.sop_class_uid, row.sop_instance_uid) for row in house.all(Instance)]
    asked = Request("2.25.9", (*held, Reference(held[0].sop_class_uid, "1.2\x00.3")))
    assert owe(house.database, "CT1", asked, hold_s=0.0)
    (owed,) = owed_reports.claim_due(house.database, "CT1", lease_s=30.0)
    report = owed_reports.judge(house.database, house.archive, owed.request)
    assert [one.sop_instance_uid for one in report.committed] == [one.sop_instance_uid for one in held]
    assert [reason for _, reason in report.failed] == [0x0112]


def test_a_sender_that_leaves_is_told_on_a_new_association(make_house: Make) -> None:
    """At the address that config has for it, with the roles reversed; at once, since the association has ended."""
    own = free_port()
    house, sender = holding(make_house, rest=peer(own), hold_s=5.0), Sender()
    with listening(house) as port, sender.associated(port) as assoc:
        assert ask(assoc, held(house)) == 0
    wait_until(lambda: house.all(OwedReport)[0].not_before is None, what="the end of the association")
    assert sender.told == []
    assert report_due(house.database, house.config, house.archive) == 1
    assert "no association" in house.all(OwedReport)[0].last_error
    with sender.serving(own):
        house.change(OwedReport, not_before=None)
        assert report_due(house.database, house.config, house.archive) == 1
    assert sender.told == [Told("2.25.9", 1, set(held(house)), {})]
    assert report_due(house.database, house.config, house.archive) == 0


def test_nothing_is_promised_to_a_sender_that_cannot_be_reached(make_small_house: Make) -> None:
    """Retention leaves alone what was promised, for ever: it must have been said."""
    own = free_port()
    house, sender = holding(make_small_house, rest=peer(own)), Sender()
    owe(house.database, "CT1", Request("2.25.9", tuple(Reference(c, u) for u, c in held(house).items())), hold_s=0.0)
    assert report_due(house.database, house.config, house.archive) == 1
    assert "no association" in house.all(OwedReport)[0].last_error
    assert [row.promised_at for row in house.all(Instance)] == [None] * 3
    house.change(OwedReport, not_before=None)
    with sender.serving(own):
        report_due(house.database, house.config, house.archive)
    assert sender.told[0].committed == set(held(house))
    assert all(row.promised_at for row in house.all(Instance))


def test_a_report_that_the_sender_does_not_take_on_its_association_is_brought_again(make_small_house: Make) -> None:
    """It answers 0x0110, for instance because its own database is locked."""
    own = free_port()
    house, sender = holding(make_small_house, rest=peer(own)), Sender(answer=0x0110)
    with listening(house) as port, sender.associated(port) as assoc:
        ask(assoc, held(house))
        wait_until(lambda: len(sender.told) == 1, what="the report")
        wait_until(lambda: house.all(OwedReport)[0].not_before is None, what="its answer")
        assert house.all(OwedReport)[0].reported_at is None
    with sender.serving(own):
        report_due(house.database, house.config, house.archive)
        assert house.all(OwedReport)[0].not_before is not None
        sender.answer = 0
        house.change(OwedReport, not_before=None)
        report_due(house.database, house.config, house.archive)
    assert len(sender.told) == 3
    assert house.all(OwedReport)[0].reported_at is not None


def test_an_association_that_breaks_between_two_reports(
    make_small_house: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that was taken is reported, and nothing is said against it; the others are brought again."""
    own = free_port()
    house, sender = holding(make_small_house, rest=peer(own).replace("60.0", "5.0")), Sender()
    for uid in ("2.25.7", "2.25.8", "2.25.9"):
        owe(house.database, "CT1", Request(uid, (Reference(CT, "1.2"),)), hold_s=0.0)
    take = sender.take

    def takes_one(event: evt.Event) -> tuple[int, None]:
        if sender.told:
            event.assoc.abort()
        return take(event)

    monkeypatch.setattr(sender, "take", takes_one)
    with sender.serving(own), capture_logs() as logs:
        assert report_due(house.database, house.config, house.archive) == 3
    assert [row.reported_at is not None for row in house.all(OwedReport)] == [True, False, False]
    lost = {line["transaction"] for line in logs if line["event"] == "commitment not reported"}
    assert lost == {"2.25.8", "2.25.9"}


@pytest.mark.parametrize("answer", [0x0112, 0x0115])
def test_a_sender_that_does_not_know_its_transaction_is_left_alone(make_small_house: Make, answer: int) -> None:
    """Telling it again would change nothing."""
    own = free_port()
    house, sender = holding(make_small_house, rest=peer(own)), Sender(answer=answer)
    owe(house.database, "CT1", Request("2.25.9", (Reference(CT, "1.2"),)), hold_s=0.0)
    with sender.serving(own):
        report_due(house.database, house.config, house.archive)
    (owed,) = house.all(OwedReport)
    assert owed.given_up_at is not None
    assert f"0x{answer:04X}" in owed.last_error
    with house.database.reading() as session:
        standing = reports.ledger(session)["commitments_asked_by_peers"]
    assert standing == {"owed": 0, "longest_wait_s": None, "given_up": 1}


def test_a_sender_without_an_address_keeps_its_report_waiting(make_small_house: Make) -> None:
    """The row says what is missing; after two days it is given up."""
    house = holding(make_small_house)
    owe(house.database, "CT1", Request("2.25.9", (Reference(CT, "1.2"),)), hold_s=0.0)
    report_due(house.database, house.config, house.archive)
    (owed,) = house.all(OwedReport)
    assert "host and port" in owed.last_error
    assert owed.given_up_at is None
    house.change(OwedReport, not_before=None, asked_at=now() - timedelta(days=3))
    report_due(house.database, house.config, house.archive)
    assert house.all(OwedReport)[0].given_up_at is not None


def test_a_listener_that_was_killed_is_followed_by_the_reporter(make_small_house: Make) -> None:
    """The request was answered, nothing more: when its time has come, a new association brings the report."""
    own = free_port()
    house, sender = holding(make_small_house, rest=peer(own)), Sender()
    owe(house.database, "CT1", Request("2.25.9", tuple(Reference(c, u) for u, c in held(house).items())), hold_s=60.0)
    with sender.serving(own):
        assert report_due(house.database, house.config, house.archive) == 0
        house.change(OwedReport, not_before=now() - timedelta(seconds=1))
        assert report_due(house.database, house.config, house.archive) == 1
    assert sender.told[0].committed == set(held(house))


def test_without_space_commitment_is_still_spoken_of(make_small_house: Make) -> None:
    """It brings no instance; and room is made only when destinations could report that they keep their results."""
    house = holding(make_small_house, rest="min_free_bytes = 1000000000000000000\n")
    sender = Sender()
    with listening(house) as port, sender.associated(port) as assoc:
        assert ask(assoc, held(house)) == 0
        wait_until(lambda: sender.told, what="the report")
    assert sender.told[0].committed == held(house).keys()


def test_the_same_request_again_is_reported_again(make_small_house: Make) -> None:
    """Its sender may have lost the first report. The same transaction for other instances is refused."""
    house, sender = holding(make_small_house), Sender()
    with listening(house) as port, sender.associated(port) as assoc:
        for times in (1, 2):
            assert ask(assoc, held(house)) == 0
            wait_until(lambda times=times: len(sender.told) == times, what="a report")  # type: ignore[misc]
            wait_until(lambda: bool(house.all(OwedReport)[0].reported_at), what="its answer")
        assert ask(assoc, {"1.2.3": CT}) == 0x0115
    assert len(house.all(OwedReport)) == 1


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_a_transaction_uid_with_a_leading_zero_is_taken(make_small_house: Make) -> None:
    """Devices of the field make UIDs from dates; those of instances are taken too."""
    house = holding(make_small_house)
    sender = Sender()
    with listening(house) as port, sender.associated(port) as assoc:
        assert ask(assoc, held(house), "1.2.3.04.0105") == 0
        wait_until(lambda: sender.told, what="the report")
    assert sender.told[0].transaction_uid == "1.2.3.04.0105"
    assert sender.told[0].committed == held(house).keys()


def test_several_requests_are_reported_one_after_the_other(make_small_house: Make) -> None:
    """The sender asks on, and is told when it is silent."""
    house, sender = holding(make_small_house, hold_s=0.3), Sender()
    uids = held(house)
    with listening(house) as port, sender.associated(port) as assoc:
        for number, (uid, sop_class) in enumerate(uids.items()):
            assert ask(assoc, {uid: sop_class}, f"2.25.1{number}") == 0
        wait_until(lambda: len(sender.told) == 3, what="three reports")
        wait_until(lambda: all(row.reported_at for row in house.all(OwedReport)), what="their answers")
    assert [told.transaction_uid for told in sender.told] == ["2.25.10", "2.25.11", "2.25.12"]


def test_requests_that_make_no_sense_get_their_status(make_small_house: Make) -> None:
    """And owe nothing."""
    house, sender = holding(make_small_house), Sender()
    empty = Dataset()
    empty.TransactionUID = "2.25.9"
    nameless = Dataset()
    nameless.ReferencedSOPSequence = [_item(CT, "1.2.3")]
    with listening(house) as port, sender.associated(port) as assoc:
        statuses = [
            assoc.send_n_action(dataset, action, PUSH_MODEL, instance)[0].Status
            for dataset, action, instance in (
                (empty, 1, PUSH_MODEL_INSTANCE),
                (nameless, 1, PUSH_MODEL_INSTANCE),
                (None, 1, PUSH_MODEL_INSTANCE),
                (empty, 7, PUSH_MODEL_INSTANCE),
                (empty, 1, "1.2.3"),
            )
        ]
    assert statuses == [0x0115, 0x0115, 0x0115, 0x0123, 0x0112]
    assert house.all(OwedReport) == []


def test_a_response_to_nothing_still_ends_the_association(make_small_house: Make) -> None:
    """A-ABORT."""
    house = holding(make_small_house)
    with listening(house) as port, RawPeer(port) as raw:
        raw.associate((PUSH_MODEL, ExplicitVRLittleEndian))
        elements = bytes.fromhex("000000010200000000810000200102000000010000000008020000000101")
        raw.send(pdv(elements, control=3))
        assert raw.pdu()[0] == 7


@pytest.mark.peer("orthanc")
def test_orthanc_is_told_what_is_held(orthanc: Orthanc, make_small_house: Make, tmp_path: Path) -> None:
    """It asks by its REST, releases, and takes the report on an association that the node opens."""
    rest = f'[[listener.peer]]\nae_title = "ORTHANC"\nhost = "{HOST}"\nport = {orthanc.dicom_port}\n'
    house = make_small_house(f"[listener]\nreport_hold_s = 5.0\n{rest}{TIMES}")
    files = write(head_ct(slices=3), tmp_path / "ct")
    for file in files:
        orthanc.upload(file)
    (study,) = orthanc.studies()
    with listening(house) as port:
        orthanc.add_modality("ICHNODE", port)
        orthanc.send(study, "ICHNODE")
        references = held(house)
        lost = min(references)
        file_of(house, lost).unlink()
        transaction = orthanc.ask_commitment("ICHNODE", references)
        assert orthanc.commitment(transaction)["Status"] == "Pending"
        wait_until(lambda: house.all(OwedReport)[0].not_before is None, what="the end of the association")
        assert report_due(house.database, house.config, house.archive) == 1
    report = orthanc.commitment(transaction)
    assert report["Status"] == "Failure"
    assert {one["SOPInstanceUID"] for one in report["Success"]} == set(references) - {lost}
    assert [(one["SOPInstanceUID"], one["FailureReason"]) for one in report["Failures"]] == [(lost, 0x0112)]
    assert house.all(OwedReport)[0].reported_at is not None
