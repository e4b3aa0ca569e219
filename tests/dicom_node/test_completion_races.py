"""Completion: races with intake, workers and other sweepers, faults in one study, clocks."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from dicom_node import completion as module
from dicom_node import eligibility, jobs
from dicom_node.completion import Completion
from dicom_node.errors import LeaseLost
from dicom_node.states import JobState, StudyState
from dicom_node.tables import Job, Result, Study
from tests.dicom_node.house import House, head_ct

if TYPE_CHECKING:
    from collections.abc import Callable


def test_an_instance_between_decision_and_commit_keeps_the_study_open(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decision was made without it, so it must not be written."""
    whole, choose = head_ct(slices=13), eligibility.choose

    def choose_while_a_slice_arrives(*arguments: object) -> object:
        monkeypatch.setattr(eligibility, "choose", choose)
        house.receive(whole[12:])
        return choose(*arguments)  # type: ignore[arg-type]

    house.receive(whole[:12])
    monkeypatch.setattr(eligibility, "choose", choose_while_a_slice_arrives)
    assert house.sweep() == []
    assert house.study().state is StudyState.RECEIVING
    (job_id,) = house.sweep()
    assert len(house.row(job_id).sop_instance_uids) == 13


def test_an_instance_of_the_very_same_microsecond_is_noticed(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clocks are coarse and set back: equal times alone do not prove that nothing came."""
    whole, choose = head_ct(slices=13), eligibility.choose

    def choose_while_a_slice_arrives(*arguments: object) -> object:
        monkeypatch.setattr(eligibility, "choose", choose)
        before = house.study().last_received_at
        house.receive(whole[12:])
        house.change(Study, last_received_at=before)
        return choose(*arguments)  # type: ignore[arg-type]

    house.receive(whole[:12])
    monkeypatch.setattr(eligibility, "choose", choose_while_a_slice_arrives)
    assert house.sweep() == []


def test_two_sweepers_make_one_job(house: House) -> None:
    """As when an orphan of a killed supervisor still runs."""
    house.receive(head_ct())
    made: list[int] = []
    sweepers = [Completion(house.database, house.config) for _ in range(4)]
    threads = [threading.Thread(target=lambda one=one: made.extend(one.sweep())) for one in sweepers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == len(house.all(Job)) == 1


def test_instances_that_arrive_while_a_sweeper_runs_are_all_read(house: House) -> None:
    """Whatever the interleaving, the newest generation holds every slice, and the rest are cancelled."""
    whole, stop = head_ct(slices=20, spacing_mm=6.0), threading.Event()

    def keep_sweeping() -> None:
        while not stop.is_set():
            house.sweep()

    sweeper = threading.Thread(target=keep_sweeping)
    sweeper.start()
    for dataset in whole:
        house.receive([dataset])
    stop.set()
    sweeper.join()
    house.age(s=1001)
    house.sweep()
    newest = house.all(Job)[-1]
    assert len(newest.sop_instance_uids) == 20
    assert house.study().state is StudyState.COMPLETE
    assert {job.state for job in house.all(Job)[:-1]} <= {JobState.CANCELLED}


def test_a_worker_that_finishes_while_its_job_is_replaced_meets_no_deadlock(house: House) -> None:
    """Either it was first and its results are superseded later, or it lost; never an error of the database."""
    whole, errors = head_ct(slices=20), []
    job_id = house.job(whole[:12])
    for number in range(12, 20):
        job = house.claimed(job_id)

        def finish(job: jobs.ClaimedJob = job) -> None:
            try:
                house.finish(job)
            except LeaseLost:
                pass
            except Exception as error:  # noqa: BLE001  (the test wants to see any)
                errors.append(error)

        house.receive([whole[number]])
        worker = threading.Thread(target=finish)
        worker.start()
        (job_id,) = house.sweep()
        worker.join()
        older = house.row(job.id)
        assert older.state in (JobState.SUCCEEDED, JobState.CANCELLED)
        assert (older.state is JobState.SUCCEEDED) == any(r.job_id == job.id for r in house.all(Result))
    assert errors == []


class LockNotAvailable(Exception):
    """What psycopg raises when a row stays locked."""

    sqlstate = "55P03"


@pytest.mark.parametrize(
    "fault",
    [
        KeyError("a bug"),
        sa.exc.DataError("", None, ValueError("a NUL")),
        sa.exc.OperationalError("", None, LockNotAvailable()),
    ],
    ids=["bug", "value", "lock"],
)
def test_a_fault_in_one_study_leaves_the_others_alone(
    house: House, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    """A header nobody thought of, a value that the database refuses or a row that an administrator keeps locked must
    not stop a hospital's other studies; it is looked at again later.
    """
    choose = eligibility.choose

    def fails_for_one(facts: list[object], rules: object) -> object:
        if facts[0].study_instance_uid == "2.25.9":  # type: ignore[attr-defined]
            raise fault
        return choose(facts, rules)  # type: ignore[arg-type]

    monkeypatch.setattr(eligibility, "choose", fails_for_one)
    house.receive(head_ct(study_uid="2.25.9", series_uid="2.25.91"))
    house.receive(head_ct())
    assert len(house.sweep()) == 1
    monkeypatch.setattr(eligibility, "choose", choose)
    assert house.sweep() == [], "it pauses"
    monkeypatch.setattr(time, "monotonic", lambda clock=time.monotonic: clock() + module.FAULT_PAUSE_S)
    assert len(house.sweep()) == 1


def test_a_database_that_fails_in_the_middle_loses_no_study(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next sweep looks again at once, not only after `quiet_s`."""
    new_job = module._new_job

    def gone(*_: object) -> None:
        raise sa.exc.OperationalError("", None, Exception("gone"))

    house.receive(head_ct())
    monkeypatch.setattr(module, "_new_job", gone)
    with pytest.raises(sa.exc.OperationalError):
        house.sweep()
    monkeypatch.setattr(module, "_new_job", new_job)
    assert len(house.sweep()) == 1


def test_a_clock_that_was_set_back_delays_nothing_for_long(small_house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Quiet is counted by this process too."""
    small_house.receive(head_ct(slices=3))
    small_house.age(s=-3600)
    assert small_house.sweep() == []
    monkeypatch.setattr(time, "monotonic", lambda clock=time.monotonic: clock() + 1001)
    assert len(small_house.sweep()) == 1


def test_deciding_holds_no_lock_that_listeners_wait_for(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large study takes long to decide; meanwhile instances of other studies are taken in."""
    choose, others = eligibility.choose, head_ct(slices=2, study_uid="2.25.9", series_uid="2.25.91")

    def choose_while_others_arrive(*arguments: object) -> object:
        house.receive(others)
        return choose(*arguments)  # type: ignore[arg-type]

    house.receive(head_ct())
    monkeypatch.setattr(eligibility, "choose", choose_while_others_arrive)
    assert len(house.sweep()) == 1


def test_bytes_replaced_between_decision_and_commit_are_noticed(
    make_house: Callable[..., House], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many instances as before, but not the same: the job's digest would be of bytes that are gone."""
    house, choose = make_house('[listener]\nsame_uid_other_bytes = "replace"'), eligibility.choose
    whole = head_ct()

    def choose_while_bytes_are_replaced(*arguments: Any) -> eligibility.Choice:
        monkeypatch.setattr(eligibility, "choose", choose)
        whole[3].ImageComments = "other bytes"
        house.receive(whole[3:4])
        return choose(*arguments)

    house.receive(whole)
    monkeypatch.setattr(eligibility, "choose", choose_while_bytes_are_replaced)
    assert house.sweep() == []
    assert len(house.sweep()) == 1
