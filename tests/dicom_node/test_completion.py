"""Completion: every reason, late instances, instances that change."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from dicom_node import jobs
from dicom_node.db import now
from dicom_node.errors import LeaseLost
from dicom_node.intake_rows import AssociationRecord
from dicom_node.result_forms import Form, FormName
from dicom_node.states import CompleteReason, JobState, ResultKind, StudyState
from dicom_node.statuses import Status
from dicom_node.tables import AuditEvent, Delivery, Instance, Job, Result, Study, Verdict
from tests.dicom_node.house import MR, SEG, SR, STUDY, House, head_ct, other_object

if TYPE_CHECKING:
    from collections.abc import Callable

DESTINATION = '[[delivery.destination]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 9\n'


def test_a_whole_head_completes_as_soon_as_its_association_ended(house: House) -> None:
    """CONTIGUOUS: one job with every slice, and a verdict with its reason."""
    house.receive(head_ct())
    (job_id,) = house.sweep()
    job, study = house.row(job_id), house.study()
    assert (study.state, study.complete_reason) == (StudyState.COMPLETE, CompleteReason.CONTIGUOUS)
    assert (job.state, job.generation, len(job.sop_instance_uids)) == (JobState.QUEUED, 1, 12)
    assert [(v.chosen, v.series_instance_uid) for v in house.all(Verdict)] == [(True, "2.25.2")]
    assert house.sweep() == []


def test_an_open_association_that_sent_to_the_study_is_waited_for(house: House) -> None:
    """A persistent association is outlasted by `quiet_s`."""
    house.receive(head_ct(), close=False)
    assert house.sweep() == []
    house.age(s=1001)
    assert len(house.sweep()) == 1
    assert house.study().complete_reason is CompleteReason.QUIET


def test_an_open_association_that_sent_to_another_study_is_not_waited_for(small_house: House) -> None:
    """Only those that sent to this study count."""
    small_house.receive(head_ct(slices=2, study_uid="2.25.9", series_uid="2.25.91"), close=False)
    small_house.receive(head_ct())
    assert len(small_house.sweep()) == 1


def test_a_study_waits_to_settle(make_small_house: Callable[..., House]) -> None:
    """`settle_s` after the last instance, for a second association may follow."""
    house = make_small_house("settle_s = 30.0")
    house.receive(head_ct())
    assert house.sweep() == []
    house.age(s=31)
    assert len(house.sweep()) == 1


@pytest.mark.parametrize(
    "missing", [slice(5, 7), slice(6, None), slice(9, None)], ids=["gap", "few slices", "a part of a head"]
)
def test_slices_that_are_missing_are_waited_for(small_house: House, missing: slice) -> None:
    """A gap, or too short a stack, is no evidence; when the rest comes the study is whole."""
    whole = head_ct()
    late = whole[missing]
    small_house.receive([dataset for dataset in whole if dataset not in late])
    assert small_house.sweep() == []
    assert small_house.sweep() == []
    small_house.receive(late)
    (job_id,) = small_house.sweep()
    assert len(small_house.row(job_id).sop_instance_uids) == 12


def test_a_study_that_never_falls_silent_completes_at_the_hard_maximum(small_house: House) -> None:
    """MAX_WAIT counts from the first instance of the round."""
    record = small_house.receive(head_ct(), close=False)
    small_house.age(s=5001)
    small_house.receive(head_ct(slices=1, series_uid="2.25.3"), association=record, close=False)
    assert len(small_house.sweep()) == 1
    assert small_house.study().complete_reason is CompleteReason.MAX_WAIT


def test_a_late_series_that_does_not_change_the_exam_makes_no_job(small_house: House) -> None:
    """A bone kernel sent minutes later leaves the finished job as it is."""
    job = small_house.claimed()
    small_house.finish(job)
    small_house.receive(head_ct(series_uid="2.25.3", kernel="H70h", description="Bone", series_number=3))
    assert small_house.study().state is StudyState.RECEIVING
    assert small_house.sweep() == []
    assert small_house.study().state is StudyState.COMPLETE
    assert small_house.study().generation == 1
    assert {v.series_instance_uid: v.chosen for v in small_house.all(Verdict)} == {"2.25.2": True, "2.25.3": False}
    assert [r.superseded_at for r in small_house.all(Result)] == [None, None]


def test_a_late_slice_makes_a_new_generation_that_replaces_the_older_result(make_house: Callable[..., House]) -> None:
    """Unsent results of the first generation are never sent, sent ones are marked superseded."""
    house = make_house(DESTINATION)
    whole = head_ct(slices=13)
    first = house.claimed(house.job(whole[:12]))
    house.finish(first)
    house.receive(whole[12:])
    (second_id,) = house.sweep()
    second = house.claimed(second_id)
    assert (house.row(second_id).generation, len(second.sources)) == (2, 13)
    assert second.input_digest != first.input_digest
    house.finish(second)
    results = {r.job_id: r.superseded_at is None for r in house.all(Result)}
    assert results == {first.id: False, second_id: True}
    assert [d.state.value for d in house.all(Delivery)] == ["CANCELLED", "CANCELLED", "PENDING", "PENDING"]


def test_a_running_job_is_cancelled_when_the_exam_changes(house: House) -> None:
    """As often as that happens, only the newest job is left; the worker's late result is thrown away."""
    whole = head_ct(slices=14)
    first = house.claimed(house.job(whole[:12]))
    for late in whole[12:]:
        house.receive([late])
        assert len(house.sweep()) == 1
    assert [job.state for job in house.all(Job)] == [JobState.CANCELLED, JobState.CANCELLED, JobState.QUEUED]
    with pytest.raises(LeaseLost):
        house.finish(first)
    assert house.all(Result) == []


@pytest.mark.parametrize("sop_class", [SEG, SR, "1.3.12.2.1107.5.9.1"], ids=["SEG", "SR", "private"])
def test_a_study_without_any_image_gets_no_job(small_house: House, sop_class: str) -> None:
    """Somebody else's segmentations and reports are nothing to analyse."""
    small_house.receive([other_object(sop_class, "SEG")])
    small_house.age(s=1001)
    assert small_house.sweep() == []
    assert small_house.study().state is StudyState.COMPLETE
    assert "nothing to analyse" in [event.kind for event in small_house.all(AuditEvent)]


def test_an_mr_study_gets_a_job_that_is_to_be_rejected(small_house: House) -> None:
    """It must be answered: not analysed, and why."""
    small_house.receive([other_object(MR, "MR")])
    small_house.age(s=1001)
    (job_id,) = small_house.sweep()
    job = small_house.claimed(job_id)
    assert job.rejection is not None
    assert job.rejection[0] == "NO_CT"
    assert [source.sop_instance_uid for source in job.sources] == ["2.25.77"]


def test_a_study_that_is_rejected_for_another_reason_is_answered_anew(small_house: House) -> None:
    """What was said of it first holds no longer; the same reason again is nothing new."""
    small_house.receive([other_object(MR, "MR")])
    for images in ([], [other_object(MR, "MR", uid="2.25.78")], head_ct(kernel="H70h", description="Bone")):
        small_house.receive(images)
        small_house.age(s=1001)
        for job_id in small_house.sweep():
            job = small_house.claimed(job_id)
            small_house.finish(job, state=JobState.REJECTED, finding="rejected", rejection=job.rejection)
    assert [job.rejection_code for job in small_house.all(Job)] == ["NO_CT", "ONLY_BONE_KERNEL"]


def test_a_result_that_comes_back_leaves_the_study_alone(small_house: House) -> None:
    """Loop guard: neither reopened nor analysed."""
    small_house.finish(small_house.claimed())
    own = other_object(SEG, "SEG", uid=small_house.all(Result)[0].sop_instance_uid)
    small_house.receive([own])
    assert small_house.study().state is StudyState.COMPLETE
    small_house.age(s=5001)
    assert small_house.sweep() == []
    assert [i.is_own_result for i in small_house.all(Instance)].count(True) == 1


@pytest.mark.parametrize("study_uid", [STUDY, "2.25.500"], ids=["the study", "one that is not known"])
def test_a_result_of_any_form_that_comes_back_makes_no_work(
    make_small_house: Callable[..., House], study_uid: str
) -> None:
    """Every form that there is: the listener takes it, and knows it for our own. A PACS may prefetch results to us
    after our rows of the study are gone; pages of them are images to the eye.
    """
    names = {kind: [str(name.value) for name in FormName if Form(name).kind is kind] for kind in ResultKind}
    lists = "".join(f"{kind.lower()} = {forms}\n" for kind, forms in names.items() if forms)
    house = make_small_house(f'[[results.profile]]\nname = "standard"\n{lists}')
    house.finish(house.claimed())
    own = [other_object(row.sop_class_uid, row.kind.value, uid=row.sop_instance_uid) for row in house.all(Result)]
    assert {row.form for row in house.all(Result)} == {name.value for name in FormName}
    assert {str(one.SOPClassUID) for one in own} <= set(house.config.listener.sop_classes)
    another = other_object(SR, "SR", uid="2.25.78")
    for one in (*own, another):
        one.StudyInstanceUID = study_uid
    house.receive(own)
    assert {study.state for study in house.all(Study)} == {StudyState.COMPLETE}
    assert [i.is_own_result for i in house.all(Instance)].count(True) == len(own)
    assert house.sweep() == []
    house.receive([another])
    house.age(s=5001)
    assert house.sweep() == []


def test_the_same_bytes_again_make_no_work(small_house: House) -> None:
    """A PACS that sends everything twice."""
    whole = head_ct()
    small_house.finish(small_house.claimed(small_house.job(whole)))
    small_house.receive(whole)
    assert small_house.study().state is StudyState.COMPLETE
    assert small_house.sweep() == []


def test_a_job_that_an_administrator_cancelled_is_made_again_for_new_instances(small_house: House) -> None:
    """Its exam was never read."""
    job_id = small_house.job()
    jobs.cancel(small_house.database, job_id, why="test")
    small_house.receive(head_ct(slices=1, series_uid="2.25.3", description="Bone", kernel="H70h"))
    assert len(small_house.sweep()) == 1


def test_bytes_that_replace_others_make_a_new_generation(make_small_house: Callable[..., House]) -> None:
    """Policy `replace`: the exam's bytes changed, so it is read again."""
    house = make_small_house('[listener]\nsame_uid_other_bytes = "replace"')
    whole = head_ct()
    house.finish(house.claimed(house.job(whole)))
    whole[3].ImageComments = "other bytes"
    house.receive(whole[3:4])
    (job_id,) = house.sweep()
    assert house.row(job_id).generation == 2


@pytest.mark.parametrize("moved", [1, 12])
def test_images_that_move_to_another_study_are_read_there(make_small_house: Callable[..., House], moved: int) -> None:
    """A PACS corrects the study UID and sends again: no job reads what is no longer in its study."""
    house = make_small_house('[listener]\nsame_uid_other_bytes = "replace"\n')
    images = head_ct()
    first = house.job(images)
    for image in images[:moved]:
        image.StudyInstanceUID = "2.25.99"
    house.receive(images[:moved])
    house.age(s=1001)
    made = [house.row(job_id) for job_id in house.sweep()]
    assert house.row(first).state is JobState.CANCELLED
    sets = {job.study.study_instance_uid: len(job.sop_instance_uids) for job in made}
    assert sets == ({STUDY: 11, "2.25.99": 1} if moved == 1 else {"2.25.99": 12})
    assert {study.state for study in house.all(Study)} == {StudyState.COMPLETE}


def test_bytes_that_are_kept_aside_make_no_work(small_house: House) -> None:
    """Policy `keep_first`: what was read stays what is read."""
    whole = head_ct()
    small_house.finish(small_house.claimed(small_house.job(whole)))
    whole[3].ImageComments = "other bytes"
    assert small_house.store(whole[3], AssociationRecord("CT1", "ICHNODE", "127.0.0.1")) is Status.SUCCESS
    assert small_house.sweep() == []


def test_studies_keep_the_time_that_they_completed(small_house: House) -> None:
    """For the ledger and for people."""
    small_house.receive(head_ct())
    small_house.sweep()
    completed = small_house.study().completed_at
    assert completed is not None
    assert completed <= now()
    assert small_house.study().study_instance_uid == STUDY
