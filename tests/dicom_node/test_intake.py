"""Intake's rows: idempotent on the UID, conflicts by policy, late instances, own results; on both databases."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from dicom_node import reconcile as reconcile_module
from dicom_node import schema
from dicom_node.archive import FolderArchive, InstanceKey
from dicom_node.config_sections import DatabaseConfig
from dicom_node.db import make_engine, now
from dicom_node.group_commit import GroupCommit
from dicom_node.intake import Intake, StoreRequest
from dicom_node.intake_rows import AssociationRecord
from dicom_node.part10 import file_head
from dicom_node.reconcile import reconcile
from dicom_node.statuses import Status
from dicom_node.tables import Association, AuditEvent, Conflict, Instance, Job, Result, Study
from tests.dicom_node.filing import put
from tests.dicom_node.raw_peer import CT, EXPLICIT, ct_dataset

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SEG = "1.2.840.10008.5.1.4.1.1.66.4"


class Bench:
    """An intake with its archive and database."""

    def __init__(self, folder: Path, url: str, policy: str = "keep_first") -> None:
        self.engine = make_engine(DatabaseConfig(url=url))
        schema.upgrade(self.engine)
        self.archive = FolderArchive(folder / "archive")
        self.policy = policy
        self.intake = self.make_intake()
        self.association = AssociationRecord("CT1", "ICHNODE", "127.0.0.1")

    def make_intake(self) -> Intake:
        """Another listener's intake on the same archive and database."""
        return Intake(self.engine, self.archive, listener_id="test/1", same_uid_other_bytes=self.policy)

    def store(
        self,
        uid: str,
        *,
        dataset: bytes | None = None,
        sop_class: str = CT,
        association: AssociationRecord | None = None,
        intake: Intake | None = None,
        **attributes: Any,
    ) -> Status:
        """One C-STORE as the listener makes it."""
        head = file_head(
            sop_class_uid=sop_class, sop_instance_uid=uid, transfer_syntax_uid=EXPLICIT, source_ae_title="CT1"
        )
        spool = self.archive.spool(head)
        spool.write(ct_dataset(uid, sop_class=sop_class, **attributes) if dataset is None else dataset)
        request = StoreRequest(sop_class, uid, EXPLICIT, len(head))
        return (intake or self.intake).store(spool, request, association or self.association).status

    def all(self, table: type) -> list[Any]:
        """Every row of a table."""
        with self.engine.execution_options(read_only=True).connect() as connection:
            return list(connection.execute(sa.select(sa.inspect(table).local_table).order_by(sa.text("id"))))

    def write(self, statement: Any) -> Any:
        """One statement, committed."""
        with self.engine.begin() as connection:
            return connection.execute(statement)

    def files(self) -> list[str]:
        """Files of the archive, relative to it."""
        return sorted(p.relative_to(self.archive.root).as_posix() for p in self.archive.root.rglob("*") if p.is_file())


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.peer("postgresql"))])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql_url"))
    return f"sqlite:///{tmp_path / 'node.sqlite'}"


@pytest.fixture
def bench(tmp_path: Path, url: str) -> Iterator[Bench]:
    """An intake that keeps the first of two."""
    one = Bench(tmp_path, url)
    yield one
    one.engine.dispose()


def test_a_new_instance(bench: Bench) -> None:
    """File, instance, study and association; the facts as JSON, without the patient."""
    assert bench.store("1.5") is Status.SUCCESS
    (instance,), (study,), (association,) = bench.all(Instance), bench.all(Study), bench.all(Association)
    assert bench.files() == [instance.path]
    assert (instance.study_id, instance.association_id) == (study.id, association.id)
    assert (instance.times_received, instance.is_own_result) == (1, False)
    assert (study.study_instance_uid, study.state, study.generation) == ("1.2.3", "RECEIVING", 0)
    assert study.created_at == study.receiving_since == study.last_received_at == instance.received_at
    assert instance.facts["series_instance_uid"] == "1.2.3.4"
    assert "SECRET" not in str(instance.facts).upper()
    assert bench.association.study_ids == {study.id}


def test_the_same_bytes_again_change_nothing_but_a_count(bench: Bench) -> None:
    """Success, one file, one row; the study is not touched, and the association touched none."""
    bench.store("1.5")
    before = bench.all(Study)
    again = AssociationRecord("CT2", "ICHNODE", "127.0.0.1")
    assert bench.store("1.5", association=again) is Status.SUCCESS
    assert bench.all(Study) == before
    (instance,) = bench.all(Instance)
    assert (instance.times_received, len(bench.files()), again.study_ids) == (2, 1, set())


def test_a_late_instance_reopens_its_study(bench: Bench) -> None:
    """RECEIVING again from now on; a duplicate does not."""
    bench.store("1.5")
    created = bench.all(Study)[0].created_at
    complete = {"state": "COMPLETE", "completed_at": now(), "complete_reason": "QUIET"}
    bench.write(sa.update(Study).values(**complete))
    bench.store("1.5")
    assert bench.all(Study)[0].state == "COMPLETE"
    bench.store("1.6", association=AssociationRecord("CT2", "ICHNODE", "127.0.0.1"))
    (study,) = bench.all(Study)
    assert (study.state, study.completed_at, study.complete_reason) == ("RECEIVING", None, None)
    assert study.calling_ae_title == "CT2"
    assert study.created_at == created < study.receiving_since == study.last_received_at


@pytest.mark.parametrize(
    ("policy", "status", "kept"),
    [
        ("keep_first", Status.SUCCESS, "first"),
        ("replace", Status.SUCCESS, "second"),
        ("refuse", Status.DUPLICATE_SOP_INSTANCE, "first"),
    ],
)
def test_same_uid_other_bytes(tmp_path: Path, url: str, policy: str, status: Status, kept: str) -> None:
    """Both contents are kept, one as the instance, the other as a conflict with its row and its audit event."""
    bench = Bench(tmp_path, url, policy)
    datasets = {"first": ct_dataset("1.5"), "second": ct_dataset("1.5", pixels=b"other " * 20)}
    assert bench.store("1.5", dataset=datasets["first"]) is Status.SUCCESS
    for _ in range(2):
        assert bench.store("1.5", dataset=datasets["second"]) is (Status.SUCCESS if policy == "replace" else status)
    (instance,), (conflict,), audit = bench.all(Instance), bench.all(Conflict), bench.all(AuditEvent)
    other = next(name for name in datasets if name != kept)
    assert bench.archive.path(instance.path).read_bytes().endswith(datasets[kept])
    assert bench.archive.path(conflict.path).read_bytes().endswith(datasets[other])
    assert (conflict.policy, conflict.sha256 != instance.sha256) == (policy, True)
    assert conflict.path.startswith("instances/" if policy == "replace" else "conflicts/")
    assert {event.kind for event in audit} == {"same UID, other bytes"}
    assert bench.files() == sorted([instance.path, conflict.path])
    assert reconcile(bench.engine, bench.archive, older_than_s=0) == []
    bench.engine.dispose()


@pytest.mark.parametrize("policy", ["keep_first", "replace", "refuse"])
def test_no_content_that_came_under_a_uid_is_lost(tmp_path: Path, url: str, policy: str) -> None:
    """However many there were: each has its file, and a row that keeps it."""
    bench = Bench(tmp_path, url, policy)
    contents = [ct_dataset("1.5", pixels=bytes([number]) * 100) for number in range(4)]
    for content in contents:
        bench.store("1.5", dataset=content)
    assert reconcile(bench.engine, bench.archive, older_than_s=0) == []
    kept = {bench.archive.path(path).read_bytes()[-len(contents[0]) :] for path in bench.files()}
    assert kept == set(contents)
    bench.engine.dispose()


def _own_result(bench: Bench, uid: str) -> None:
    """A result of the first study, made by its job."""
    job = {"study_id": 1, "generation": 1, "state": "SUCCEEDED", "sop_instance_uids": [], "input_digest": "x"}
    job |= {"series_reason": "", "attempt": 1, "worker_deaths": 0, "queued_at": now(), "summary": {}}
    bench.write(sa.insert(Job).values(**job))
    result = {
        "job_id": 1,
        "kind": "SEG",
        "form": "seg-binary",
        "variant": "seg-binary",
        "sop_class_uid": SEG,
        "sop_instance_uid": uid,
    }
    result |= {"series_instance_uid": "1.7", "path": "p", "sha256": "s", "size_bytes": 1, "created_at": now()}
    bench.write(sa.insert(Result).values(**result))


def test_an_own_result_that_comes_back_reopens_nothing(bench: Bench) -> None:
    """A PACS that routes results back to where they came from: kept, marked, no study is touched."""
    bench.store("1.5")
    bench.write(sa.update(Study).values(state="COMPLETE"))
    _own_result(bench, "1.77")
    own = AssociationRecord("PACS", "ICHNODE", "127.0.0.1")
    assert bench.store("1.77", sop_class=SEG, association=own) is Status.SUCCESS
    assert bench.store("1.78", sop_class=SEG, study="1.2.9", association=own) is Status.SUCCESS
    assert [row.is_own_result for row in bench.all(Instance)] == [False, True, False]
    assert [row.state for row in bench.all(Study)] == ["COMPLETE", "RECEIVING"]
    assert own.study_ids == {2}


def test_an_own_result_that_comes_back_changed_reopens_nothing_either(tmp_path: Path, url: str) -> None:
    """A PACS may coerce elements; where the later bytes replace the first ones they are still our own result."""
    bench = Bench(tmp_path, url, "replace")
    bench.store("1.5")
    bench.write(sa.update(Study).values(state="COMPLETE"))
    _own_result(bench, "1.77")
    own = AssociationRecord("PACS", "ICHNODE", "127.0.0.1")
    for pixels in (b"as it was made  ", b"coerced         "):
        stored = bench.store("1.77", sop_class=SEG, pixels=pixels, association=own)
        assert stored is Status.SUCCESS
    assert [(row.times_received, row.is_own_result) for row in bench.all(Instance)] == [(1, False), (1, True)]
    assert ([row.state for row in bench.all(Study)], own.study_ids) == (["COMPLETE"], set())
    bench.engine.dispose()


def test_an_instance_that_moves_to_another_study_reopens_both(tmp_path: Path, url: str) -> None:
    """The study that it left is not what was complete, nor what was read of it."""
    bench = Bench(tmp_path, url, "replace")
    bench.store("1.5")
    bench.store("1.6")
    complete = {"state": "COMPLETE", "completed_at": now(), "complete_reason": "QUIET"}
    bench.write(sa.update(Study).values(**complete))
    assert bench.store("1.6", study="1.2.9") is Status.SUCCESS
    left, joined = bench.all(Study)
    assert [row.study_id for row in bench.all(Instance)] == [left.id, joined.id]
    assert [(row.state, row.completed_at, row.complete_reason) for row in (left, joined)] == [
        ("RECEIVING", None, None)
    ] * 2
    assert left.last_received_at == left.receiving_since == joined.last_received_at
    bench.engine.dispose()


def test_the_end_of_an_association(bench: Bench) -> None:
    """Counts and how it ended; one that only had failures gets its row at its end, one without a store none."""
    bench.store("1.5")
    bench.association.stored_count = 1
    bench.intake.close(bench.association, "released")
    failed = AssociationRecord("CT2", "ICHNODE", "127.0.0.1", refused_count=3)
    bench.intake.close(failed, "peer gone")
    bench.intake.close(AssociationRecord("ECHO", "ICHNODE", "127.0.0.1"), "released")
    rows = [(r.calling_ae_title, r.stored_count, r.refused_count, r.how_ended) for r in bench.all(Association)]
    assert rows == [("CT1", 1, 0, "released"), ("CT2", 0, 3, "peer gone")]
    assert all(row.closed_at is not None for row in bench.all(Association))


def test_many_associations_at_once(bench: Bench) -> None:
    """New instances, the same ones and the same UID with other bytes from eight threads of two listeners."""
    intakes = [bench.make_intake(), bench.make_intake()]
    statuses: list[Status] = []

    def send(number: int) -> None:
        association = AssociationRecord(f"CT{number}", "ICHNODE", "127.0.0.1")
        for one in range(10):
            statuses.append(bench.store(f"1.5.{one}", association=association, intake=intakes[number % 2]))
            statuses.append(bench.store(f"1.6.{number}.{one}", association=association, intake=intakes[number % 2]))

    threads = [threading.Thread(target=send, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) == {Status.SUCCESS}
    instances = bench.all(Instance)
    assert len(instances) == 10 + 80
    assert sum(row.times_received for row in instances) == 160
    assert bench.files() == sorted(row.path for row in instances)
    assert len(bench.all(Study)) == 1


def test_an_orphan_is_adopted_by_a_second_sending_and_removed_without_one(bench: Bench) -> None:
    """A crash between file and row: the sender was told nothing and sends again; else the file goes."""
    for uid in ("1.5", "1.6"):
        head = file_head(sop_class_uid=CT, sop_instance_uid=uid, transfer_syntax_uid=EXPLICIT, source_ae_title="CT1")
        put(bench.archive, InstanceKey("1.2.3", "1.2.3.4", uid), head=head, pieces=[ct_dataset(uid)])
    assert bench.store("1.5") is Status.SUCCESS
    assert reconcile(bench.engine, bench.archive, older_than_s=3600) == []
    (orphan,) = reconcile(bench.engine, bench.archive, older_than_s=0, remove=False)
    assert "/1.6-" in orphan
    assert len(bench.files()) == 2
    assert reconcile(bench.engine, bench.archive, older_than_s=0) == [orphan]
    assert bench.files() == [bench.all(Instance)[0].path]


def test_files_of_a_database_that_was_restored_stay(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them without a row than a crash can leave: they may be all that is left of what was acknowledged."""
    monkeypatch.setattr(reconcile_module, "MOST_OF_A_CRASH", 3)
    monkeypatch.setattr(reconcile_module, "BATCH", 2)
    for number in range(3):
        assert bench.store(f"1.7.{number}") is Status.SUCCESS
    assert bench.store("1.7.0", pixels=b"kept aside" * 10) is Status.SUCCESS
    bench.write(sa.delete(Instance))
    bench.write(sa.delete(Conflict))
    before = bench.files()
    assert reconcile(bench.engine, bench.archive, older_than_s=0) == []
    assert bench.files() == before
    assert bench.store("1.7.0") is Status.SUCCESS
    assert len(reconcile(bench.engine, bench.archive, older_than_s=0)) == 3
    assert bench.files() == [bench.all(Instance)[0].path]


def test_a_file_that_vanished_before_its_row(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reconciliation got there first: 0xA700, no row, and a second sending is stored."""
    monkeypatch.setattr(bench.archive, "exists", lambda _path: False)
    assert bench.store("1.5") is Status.OUT_OF_RESOURCES
    assert bench.all(Instance) == bench.all(Study) == []
    monkeypatch.undo()
    assert bench.store("1.5") is Status.SUCCESS


def test_a_file_that_vanished_before_it_replaced_another(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a new instance: 0xA700, and the row still names the bytes that are there."""
    bench = Bench(tmp_path, url, "replace")
    assert bench.store("1.5") is Status.SUCCESS
    before = bench.all(Instance)
    monkeypatch.setattr(bench.archive, "exists", lambda _path: False)
    assert bench.store("1.5", pixels=b"other " * 20) is Status.OUT_OF_RESOURCES
    assert (bench.all(Instance), bench.all(Conflict)) == (before, [])
    monkeypatch.undo()
    assert bench.store("1.5", pixels=b"other " * 20) is Status.SUCCESS
    assert bench.all(Instance)[0].sha256 != before[0].sha256
    bench.engine.dispose()


def test_an_error_of_ours_is_a_failure_to_the_sender(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """0x0110 and nothing left behind."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(bench.archive, "commit", fail)
    assert bench.store("1.5") is Status.PROCESSING_FAILURE
    assert bench.files() == []


def test_a_bad_piece_of_work_does_not_spoil_its_batch(bench: Bench) -> None:
    """Those that wait together commit together; one that fails gets its own error and the others their rows."""
    commits = GroupCommit(bench.engine)
    entered, proceed = threading.Event(), threading.Event()
    errors: list[Exception] = []

    def first(_connection: sa.Connection) -> None:
        entered.set()
        proceed.wait(30)

    def good(connection: sa.Connection) -> None:
        connection.execute(sa.insert(AuditEvent).values(at=now(), kind="good", detail={}))

    def bad(connection: sa.Connection) -> None:
        good(connection)
        raise KeyError("mine")

    def run(work: Any) -> None:
        try:
            commits.run(work)
        except KeyError as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in (first, good, bad, good)]
    threads[0].start()
    entered.wait(30)
    for thread in threads[1:]:
        thread.start()
    while len(commits._waiting) < 3:
        pass
    proceed.set()
    for thread in threads:
        thread.join()
    assert len(errors) == 1
    assert [row.kind for row in bench.all(AuditEvent)] == ["good", "good"]
