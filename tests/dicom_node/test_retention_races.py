"""Images that come again when retention has taken them, or while it does."""

from __future__ import annotations

import hashlib
import itertools
import threading
from typing import Any

import pytest
import sqlalchemy as sa

from dicom_node import owed_reports, reconcile, retention
from dicom_node.archive import intact
from dicom_node.db import now
from dicom_node.retention import Amount
from dicom_node.states import DeliveryState, JobState, StudyState
from dicom_node.statuses import Status
from dicom_node.tables import Conflict, Delivery, Instance, Job, Result, Study
from tests.dicom_node.house import encoded, head_ct
from tests.dicom_node.settled import DAY_S, OLD, PACS, MakeHouse, ask_to_keep, files, purge, settled


def test_nothing_is_promised_of_what_went_while_it_was_looked_at(
    make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at the file and the mark in the row, retention took both."""
    house = make_house(PACS + OLD)
    settled(house)
    house.age(s=31 * DAY_S)
    request = ask_to_keep(house, 2)

    def looked_at(*arguments: Any) -> bool:
        found = intact(*arguments)
        purge(house)
        return found

    monkeypatch.setattr("dicom_node.owed_reports.intact", looked_at)
    report = owed_reports.judge(house.database, house.archive, request)
    assert report.committed == ()
    assert {reason for _, reason in report.failed} == {0x0112}


@pytest.mark.parametrize(
    ("table", "change"),
    [
        (Instance, {"promised_at": now()}),
        (Study, {"last_received_at": now()}),
        (Delivery, {"state": DeliveryState.PENDING}),
        (Job, {"state": JobState.QUEUED}),
    ],
    ids=["promised", "comes again", "sent anew", "run again"],
)
def test_what_is_needed_again_while_older_studies_go_stays(
    make_house: MakeHouse, table: type[Any], change: dict[str, Any]
) -> None:
    """Which studies are due is found out at once; each is looked at again before it goes."""
    house = make_house(PACS + OLD)
    settled(house)
    house.age(s=60)
    settled(house, head_ct(study_uid="2.25.9", series_uid="2.25.91"))
    house.age(s=31 * DAY_S)
    removed = retention.purge(
        house.database, house.archive, house.config.retention, progress=lambda _: house.change(table, **change)
    )
    assert (removed.studies, removed.instances, len(files(house))) == (1, 12, 12)


def test_what_keeps_one_study_keeps_no_other(make_house: MakeHouse) -> None:
    """A promise, and a result that has yet to arrive: else a single one would fill the disk."""
    house = make_house(PACS + OLD)
    settled(house, head_ct(study_uid="2.25.8", series_uid="2.25.81"))
    owed_reports.judge(house.database, house.archive, ask_to_keep(house, 2))
    settled(house)
    house.finish(house.claimed(house.job(head_ct(study_uid="2.25.9", series_uid="2.25.91"))))
    house.age(s=31 * DAY_S)
    assert purge(house).studies == 1
    assert [study.images_removed_at is None for study in house.all(Study)] == [True, False, True]


def test_the_same_images_sent_again_are_nothing_new(make_house: MakeHouse) -> None:
    """They are taken, no second result is made, and they go again in their time."""
    house, images = make_house(PACS + OLD), head_ct()
    settled(house, images)
    house.age(s=31 * DAY_S)
    purge(house)
    house.receive(images)
    assert (house.sweep(), len(files(house)), house.study().state) == ([], 12, StudyState.COMPLETE)
    house.age(s=31 * DAY_S)
    assert purge(house).instances == 12
    assert (len(house.all(Job)), len(house.all(Result))) == (1, 2)


def test_a_study_that_is_sent_again_is_kept_from_then_on(make_house: MakeHouse) -> None:
    """So that it is not taken while half of it has come: one instance is enough, the same bytes as before."""
    house, images = make_house(PACS + OLD), head_ct()
    settled(house, images)
    house.age(s=31 * DAY_S)
    house.receive(images[:1])
    assert (house.sweep(), purge(house), house.study().state) == ([], Amount(), StudyState.COMPLETE)
    house.age(s=31 * DAY_S)
    assert purge(house).instances == 12


def test_a_late_slice_without_the_others_is_rejected_and_says_what_to_do(make_house: MakeHouse) -> None:
    """Whatever is sent again in part, if it is all that an older generation read; the whole study, sent again with it,
    is read.
    """
    house = make_house(PACS + OLD)
    whole = head_ct(slices=14)
    for images in (whole[:12], whole[12:13]):
        house.finish(house.claimed(house.job(images)))
    house.change(Delivery, state=DeliveryState.SENT)
    house.age(s=31 * DAY_S)
    purge(house)
    house.receive([*whole[:12], whole[13]])
    house.age(s=1001)
    (partial,) = house.sweep()
    row = house.row(partial)
    assert (row.rejection_code, row.series_instance_uid, row.sop_instance_uids) == ("IMAGES_REMOVED", None, [])
    assert "send the whole study" in str(row.rejection_text)
    claimed = house.claimed(partial)
    house.finish(claimed, state=JobState.REJECTED, finding="rejected", rejection=claimed.rejection)
    house.receive(whole[12:13])
    (read,) = house.sweep()
    row = house.row(read)
    assert (row.rejection_code, len(row.sop_instance_uids)) == (None, 14)


def test_what_is_stored_while_retention_removes_it_is_never_lost(make_house: MakeHouse) -> None:
    """Every instance that is acknowledged has its row and its file, however often its study goes and comes."""
    house = make_house(PACS + "[listener]\nmin_free_bytes = 1\n[retention]\nimages_days = 0.0000001\n")
    images = head_ct()
    settled(house, images)
    stop, faults = threading.Event(), list[BaseException]()

    def remove() -> None:
        while not stop.is_set():
            try:
                purge(house)
            except BaseException as error:  # noqa: BLE001 (whatever it is, the test shows it)
                faults.append(error)
                return

    removing = threading.Thread(target=remove)
    removing.start()
    answers: list[Status] = []
    for _ in range(30):
        record = house.receive([], close=False)
        answers += [house.store(image, record) for image in images]
        house.intake.close(record, "released")
        house.sweep()
    stop.set()
    removing.join()
    assert faults == []
    assert answers.count(Status.SUCCESS) > 0
    assert set(answers) <= {Status.SUCCESS, Status.OUT_OF_RESOURCES}
    for row in house.all(Instance):
        assert house.archive.exists(row.path)
    assert {row.path.rpartition("/")[2] for row in house.all(Instance)} == set(files(house))


def test_an_image_that_comes_again_before_its_file_goes_keeps_it(
    make_house: MakeHouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between retention's commit and its look at the files, the whole study is acknowledged again."""
    house, images = make_house(PACS + OLD), head_ct()
    settled(house, images)
    house.age(s=31 * DAY_S)

    def late(*arguments: Any) -> list[str]:
        house.receive(images)
        return reconcile.remove_unknown(*arguments)

    monkeypatch.setattr(retention, "remove_unknown", late)
    assert purge(house).instances == 12
    assert (len(files(house)), len(house.all(Instance))) == (12, 12)


@pytest.mark.peer("postgresql")
@pytest.mark.parametrize("policy", ["keep_first", "replace"])
@pytest.mark.parametrize("changed", [False, True], ids=["same bytes", "other bytes"])
def test_an_image_whose_row_goes_while_it_comes_again_is_stored_anew(
    make_small_house: MakeHouse, postgresql_url: str, monkeypatch: pytest.MonkeyPatch, policy: str, *, changed: bool
) -> None:
    """Its row was found and, before it could be counted, removed: success is answered for what has a row and a file.

    SQLite has one writer at a time, so this cannot happen there. Had the file gone too, it would have been refused.
    """
    monkeypatch.setattr(retention, "remove_unknown", lambda *_: [])
    listener = f'[listener]\nsame_uid_other_bytes = "{policy}"\n'
    house = make_small_house(PACS + OLD + listener, url=postgresql_url)
    images = head_ct()
    settled(house, images)
    house.age(s=31 * DAY_S)
    if changed:
        images[0].SeriesDescription = "changed"
    looks, purged = itertools.count(), list[Amount]()

    @sa.event.listens_for(house.engine, "after_cursor_execute")
    def _found(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        # Other bytes are looked up twice: to see that they are others, and to apply the policy.
        if statement.startswith("SELECT instances.id, instances.study_id") and next(looks) == int(changed):
            purged.append(purge(house))

    assert house.store(images[0], house.receive([], close=False)) is Status.SUCCESS
    assert [one.instances for one in purged] == [12]
    reconcile.reconcile(house.engine, house.archive, older_than_s=0)
    kept = [*house.all(Instance), *house.all(Conflict)]
    assert [row.sha256 for row in kept] == [hashlib.sha256(encoded(images[0])).hexdigest()]
    assert house.archive.exists(kept[0].path)
