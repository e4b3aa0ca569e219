"""What leaves the disk, and above all what does not: nothing unsent, unread or promised, however full it is."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from dicom_node import jobs, owed_reports, reconcile, reports, retention
from dicom_node.archive import picture_path
from dicom_node.commitment_messages import Reference, Request
from dicom_node.db import now
from dicom_node.errors import NotPossible
from dicom_node.retention import Amount
from dicom_node.states import DeliveryState, JobState, StudyState
from dicom_node.tables import AuditEvent, Conflict, Delivery, Instance, Job, Result, Study
from tests.dicom_node.house import SEG, STUDY, House, head_ct, other_object
from tests.dicom_node.settled import DAY_S, OLD, PACS, MakeHouse, ask_to_keep, files, plan, purge, settled
from tests.peers import wait_until


def test_images_of_a_settled_study_go_when_they_are_old(make_house: MakeHouse) -> None:
    """Files, rows and folders; what was found, sent and done stays, and the ledger balances."""
    house = make_house(PACS + OLD)
    settled(house)
    house.age(s=29 * DAY_S)
    assert (purge(house), len(files(house))) == (Amount(), 12)
    house.age(s=2 * DAY_S)
    size_bytes = sum(row.size_bytes for row in house.all(Instance))
    expected = Amount(studies=1, instances=12, size_bytes=size_bytes)
    assert plan(house).removed == expected
    told: list[Amount] = []
    assert retention.purge(house.database, house.archive, house.config.retention, progress=told.append) == expected
    assert told == [expected]
    assert files(house) == house.all(Instance) == []
    assert list((house.config.archive_dir / "instances").glob("*/*")) == []
    assert (house.study().state, len(house.all(Result))) == (StudyState.COMPLETE, 2)
    assert house.all(AuditEvent)[-1].detail["because_of"] == "retention.images_days"
    with house.database.reading() as session:
        ledger = reports.ledger(session)
        assert reports.show(session, STUDY)["images_removed_at"] is not None
    assert ledger["balances"]
    assert (ledger["instances"]["held"], ledger["removed"]) == (0, {"images_of_studies": 1, "result_files": 0})
    assert purge(house) == Amount()


def test_without_a_rule_nothing_ever_goes(make_house: MakeHouse) -> None:
    """The default."""
    house = make_house(PACS)
    settled(house)
    house.age(s=10_000 * DAY_S)
    assert purge(house) + retention.make_room(house.database, house.archive, house.config) == Amount()
    assert len(files(house)) == 12


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda house: house.change(Delivery, state=DeliveryState.PENDING), "results not arrived"),
        (lambda house: house.change(Delivery, state=DeliveryState.DEAD), "results not arrived"),
        (lambda house: house.change(Delivery, state=DeliveryState.SPARE), "results not arrived"),
        (lambda house: house.change(Delivery, confirm_at=now()), "results not arrived"),
        (lambda house: house.change(Job, state=JobState.QUEUED), "analysis not ended"),
        (lambda house: house.change(Job, state=JobState.RUNNING), "analysis not ended"),
        (lambda house: house.change(Job, state=JobState.FAILED), "analysis not ended"),
        (lambda house: house.change(Job, state=JobState.QUARANTINED), "analysis not ended"),
        (lambda house: house.change(Study, state=StudyState.RECEIVING), "being received"),
    ],
    ids=["pending", "dead", "spare", "unconfirmed", "queued", "running", "failed", "quarantined", "receiving"],
)
def test_what_somebody_waits_for_stays(make_house: MakeHouse, change: Callable[[House], None], why: str) -> None:
    """Old, and on a disk that is full: images and results stay, and the plan says why."""
    house = make_house(PACS + OLD + f"make_room_below_bytes = {10**18}\n")
    settled(house)
    change(house)
    house.change(Result, created_at=now() - timedelta(days=1000))
    house.age(s=1000 * DAY_S)
    removed = purge(house) + retention.make_room(house.database, house.archive, house.config)
    assert (removed, plan(house)) == (Amount(), retention.Plan(Amount(), {why: 1}))
    assert (len(files(house)), len(files(house, "results"))) == (12, 2)


@pytest.mark.parametrize("state", [DeliveryState.COMMITTED, DeliveryState.REFUSED, DeliveryState.CANCELLED])
def test_what_arrived_or_was_withdrawn_holds_nothing_up(make_house: MakeHouse, state: DeliveryState) -> None:
    """A form that another went in place of, and a result that a later one replaced."""
    house = make_house(PACS + OLD)
    settled(house)
    house.change(Delivery, state=state)
    house.age(s=31 * DAY_S)
    assert purge(house).instances == 12


def test_a_failure_that_a_later_generation_replaced_holds_nothing_up(make_house: MakeHouse) -> None:
    """Nobody can retry it any more."""
    house = make_house(PACS + OLD)
    whole = head_ct(slices=13)
    failed = house.job(whole[:12])
    jobs.fail(house.database, house.claimed(failed), code="X", text="x", retryable=False, config=house.config.worker)
    house.receive(whole[12:])
    (newer,) = house.sweep()
    house.finish(house.claimed(newer))
    house.change(Delivery, state=DeliveryState.SENT)
    house.age(s=31 * DAY_S)
    assert purge(house).instances == 13


def test_a_study_with_nothing_to_analyse_goes_too(make_house: MakeHouse) -> None:
    """It has no job."""
    house = make_house(OLD)
    house.receive([other_object(SEG, "SEG")])
    house.age(s=1001)
    house.sweep()
    house.age(s=31 * DAY_S)
    assert purge(house).instances == 1


def test_what_was_kept_aside_goes_with_its_study(make_house: MakeHouse) -> None:
    """Bytes that came under a UID that had others."""
    house, images = make_house(PACS + OLD), head_ct()
    settled(house, images)
    images[0].SeriesDescription = "changed"
    house.receive(images[:1])
    assert (len(files(house, "conflicts")), len(house.all(Conflict))) == (1, 1)
    house.age(s=31 * DAY_S)
    assert purge(house).studies == 1
    assert files(house) == files(house, "conflicts") == house.all(Conflict) == []


def test_what_a_sender_was_told_is_kept_is_kept(make_house: MakeHouse) -> None:
    """It may have let go of its own; its whole study stays. The mark is made before anything is reported."""
    house = make_house(PACS + OLD + f"make_room_below_bytes = {10**18}\n")
    settled(house)
    report = owed_reports.judge(house.database, house.archive, ask_to_keep(house, 2))
    assert (len(report.committed), len(report.failed)) == (2, 0)
    house.age(s=31 * DAY_S)
    removed = purge(house) + retention.make_room(house.database, house.archive, house.config)
    assert (removed, plan(house).kept) == (Amount(), {"promised to a sender": 1})
    assert len(files(house)) == 12


def test_a_job_whose_images_are_gone_is_not_tried_again(make_house: MakeHouse) -> None:
    """`dicom-node retry` says to send them; then it works."""
    house, images = make_house(PACS + OLD), head_ct()
    job_id = house.job(images)
    jobs.cancel(house.database, job_id, why="test")
    house.age(s=31 * DAY_S)
    assert purge(house).instances == 12
    with pytest.raises(NotPossible, match=r"images of job 1 were removed on \d{4}-\d\d-\d\d .*send the study again"):
        jobs.retry(house.database, job_id)
    house.receive(images, close=False)
    assert jobs.retry(house.database, job_id) == "it is queued again"


def test_a_rejected_study_that_came_again_is_read_by_the_advised_retry(make_house: MakeHouse) -> None:
    """The same images are nothing new by themselves: `dicom-node retry` says to send them, and to call it again."""
    house, images = make_house(PACS + OLD), head_ct()
    job_id = settled(house, images, state=JobState.REJECTED, finding="rejected", rejection=("NOT_HEAD", "x"))
    house.age(s=31 * DAY_S)
    assert purge(house).instances == 12
    with pytest.raises(NotPossible, match=rf"send the study again, then `dicom-node retry {job_id}`"):
        jobs.retry(house.database, job_id)
    house.receive(images)
    house.age(s=1000)
    assert house.sweep() == []
    assert jobs.retry(house.database, job_id) == "it is queued again"


def test_result_files_go_later_and_their_rows_stay(make_house: MakeHouse) -> None:
    """The rows are the loop guard; a rerun of the job writes the files anew."""
    house = make_house(PACS + OLD)
    job_id = settled(house, state=JobState.REJECTED, finding="rejected", rejection=("GAP", "x"))
    (result,) = house.all(Result)
    assert purge(house) == Amount()
    house.change(Result, created_at=now() - timedelta(days=61))
    assert plan(house).removed == Amount(results=1, size_bytes=result.size_bytes)
    assert purge(house) == Amount(results=1, size_bytes=result.size_bytes)
    (gone,) = house.all(Result)
    assert (files(house, "results"), gone.file_removed_at is not None) == ([], True)
    assert purge(house) == Amount()
    jobs.retry(house.database, job_id)
    house.finish(house.claimed(job_id), state=JobState.REJECTED, finding="rejected", rejection=("GAP", "x"))
    (again,) = house.all(Result)
    assert (again.id, again.file_removed_at, len(files(house, "results"))) == (result.id, None, 1)


def picture_of(house: House, job_id: int) -> Path:
    """The picture that the job's summary names, on disk."""
    path = picture_path("ab12", job_id)
    house.change(Job, summary={"overlay": path, "line": "positive"})
    file = house.archive.path(path)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"pixels of the patient")
    return file


def test_the_picture_of_a_job_goes_with_its_results(make_house: MakeHouse) -> None:
    """It shows slices of the head: after its time nothing of these is left on the disk."""
    house = make_house(PACS + OLD)
    picture = picture_of(house, settled(house))
    house.age(s=61 * DAY_S)
    purge(house)
    assert picture.exists(), "the results are not old"
    house.change(Result, created_at=now() - timedelta(days=61))
    house.change(Job, finished_at=now() - timedelta(days=61))
    house.change(Delivery, state=DeliveryState.DEAD)
    assert (purge(house), plan(house).removed, picture.exists()) == (Amount(), Amount(), True)
    house.change(Delivery, state=DeliveryState.SENT)
    expected = plan(house).removed
    assert (expected.results, expected.pictures) == (2, 1)
    assert (purge(house), purge(house)) == (expected, Amount())
    assert [path for path in house.archive.root.rglob("*") if path.is_file()] == []
    assert [job.summary for job in house.all(Job)] == [{"line": "positive"}]


def test_a_round_that_finds_nothing_old_keeps_no_writer_out(make_house: MakeHouse) -> None:
    """Every minute it looks at all that ever was: on SQLite no image could be stored meanwhile."""
    house = make_house(PACS + OLD + "transactions_days = 30\n")
    settled(house)
    with house.database.session() as writer:
        writer.connection()
        assert purge(house) == Amount()


def test_results_that_had_nowhere_to_go_stay(make_house: MakeHouse) -> None:
    """Without destinations this is the only place that has them."""
    house = make_house(OLD)
    picture = picture_of(house, settled(house))
    house.change(Result, created_at=now() - timedelta(days=1000))
    house.change(Job, finished_at=now() - timedelta(days=1000))
    house.age(s=31 * DAY_S)
    removed = purge(house)
    assert (removed.studies, removed.results, len(files(house, "results"))) == (1, 0, 2)
    assert (removed.pictures, picture.exists()) == (0, True)


def three_settled(house: House, *, apart_s: int) -> None:
    """Studies that came one after the other, the last one so long ago too."""
    for number in (1, 2, 3):
        house.receive(head_ct(study_uid=f"2.25.{number}0", series_uid=f"2.25.{number}1"))
        (job_id,) = house.sweep()
        house.finish(house.claimed(job_id), name=str(number))
        house.age(s=apart_s)
    house.change(Delivery, state=DeliveryState.SENT)


def test_room_is_made_by_the_oldest_first_and_no_further(
    make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three settled studies, room for two; late slices of the youngest may still come."""
    house = make_house(PACS + "[retention]\nmake_room_below_bytes = 5000000000\n")
    three_settled(house, apart_s=2000)
    free = iter([4_000_000_000, 4_000_000_000, 4_900_000_000, 5_100_000_000])
    monkeypatch.setattr(house.archive, "free_bytes", lambda: next(free))
    removed = retention.make_room(house.database, house.archive, house.config)
    assert (removed.studies, removed.instances) == (1, 12), "2.25.20 and 2.25.30 came under 5000 s ago"
    assert {row.study_id for row in house.all(Instance)} == {2, 3}
    house.age(s=10_000)
    free = iter([4_900_000_000, 4_900_000_000, 5_100_000_000])
    assert retention.make_room(house.database, house.archive, house.config).studies == 1
    assert {row.study_id for row in house.all(Instance)} == {3}


def test_no_more_goes_than_what_is_missing(make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that says only later what has become free: one study is enough, and the others stay."""
    house = make_house(PACS + "[retention]\nmake_room_below_bytes = 5000000000\n")
    three_settled(house, apart_s=10_000)
    monkeypatch.setattr(house.archive, "free_bytes", lambda: 5_000_000_000 - 2_000)
    assert retention.make_room(house.database, house.archive, house.config).studies == 1
    assert {row.study_id for row in house.all(Instance)} == {2, 3}


def test_a_crash_between_rows_and_files_is_repaired(make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """The daily look through the archive finds what is left, of images and of results."""
    house = make_house(PACS + OLD)
    settled(house)
    house.change(Result, created_at=now() - timedelta(days=61))
    house.age(s=61 * DAY_S)
    with monkeypatch.context() as killed:
        killed.setattr(retention, "remove_unknown", lambda *_: [])
        assert purge(house).studies == 1
    assert (len(files(house)), len(files(house, "results"))) == (12, 2)
    monkeypatch.setattr(reconcile, "MOST_OF_A_CRASH", 0)  # these are known to be gone, however many they are
    unknown = reconcile.reconcile(house.engine, house.archive, older_than_s=0)
    assert (len(unknown), files(house), files(house, "results")) == (14, [], [])


def test_result_files_of_a_killed_worker_do_not_stay(make_house: MakeHouse) -> None:
    """Written whole or half, without a row: the job is run again, maybe under other settings and so other UIDs."""
    house = make_house(PACS)
    job_id = settled(house)
    picture_of(house, job_id)
    kept = files(house, "results")
    folder = house.config.archive_dir / "results"
    for path in (folder / "2.25.8.dcm", folder / "2.25.9.dcm.0123456789abcdef.tmp"):
        path.write_bytes(b"x")
    for digest, number in (("ab34", job_id), ("ab12", job_id + 1)):  # of another input, and of a job that never was
        (house.config.archive_dir / picture_path(digest, number)).write_bytes(b"x")
    assert len(reconcile.reconcile(house.engine, house.archive, older_than_s=0)) == 4
    assert files(house, "results") == kept


def test_the_loop_removes_makes_room_and_outlives_a_fault(
    make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A database that is away for a moment ends nothing."""
    house = make_house(PACS + OLD + f"make_room_below_bytes = {10**18}\n")
    for number in (1, 2):
        house.receive(head_ct(study_uid=f"2.25.{number}0", series_uid=f"2.25.{number}1"))
        (job_id,) = house.sweep()
        house.finish(house.claimed(job_id), name=str(number))
        house.age(s=20 * DAY_S)
    house.change(Delivery, state=DeliveryState.SENT)
    faults = iter([sa.exc.OperationalError("SELECT", {}, Exception("gone"))])
    real = retention.purge

    def purged(*arguments: Any) -> Amount:
        for fault in faults:
            raise fault
        return real(*arguments)

    monkeypatch.setattr(retention, "purge", purged)
    monkeypatch.setattr(retention, "ROUND_S", 0.01)
    stop = threading.Event()
    loop = threading.Thread(target=retention.keep_tidy_until, args=(stop, house.database, house.config, house.archive))
    loop.start()
    wait_until(lambda: not files(house), what="both studies are gone: one is old, the other in the way")
    stop.set()
    loop.join()
    reasons = [e.detail["because_of"] for e in house.all(AuditEvent) if e.kind == "images removed"]
    assert reasons == ["retention.images_days", "retention.make_room_below_bytes"]


def test_the_migration_promises_what_was_reported(make_house: MakeHouse) -> None:
    """Databases of older releases did not say which instances were committed to: all that were asked about count."""
    from dicom_node import schema

    house = make_house(PACS)
    settled(house)
    with house.database.session() as session:
        uids = [row.sop_instance_uid for row in session.scalars(sa.select(Instance).limit(3))]
    request = Request("2.25.9", tuple(Reference("1.2.840.10008.5.1.4.1.1.2", uid) for uid in uids))
    owed_id = owed_reports.owe(house.database, "CT1", request, hold_s=0)
    assert owed_id is not None
    owed = owed_reports.claim(house.database, owed_id, lease_s=9)
    assert owed is not None
    owed_reports.reported(house.database, owed, owed_reports.judge(house.database, house.archive, request))
    schema.downgrade(house.engine, "0004")
    schema.upgrade(house.engine)
    promised = {row.sop_instance_uid for row in house.all(Instance) if row.promised_at}
    assert promised == set(uids)
