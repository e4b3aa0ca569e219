"""What the rows tell people: the ledger balances at every moment, and a study tells its whole story."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
import sqlalchemy as sa

from dicom_node import jobs, reports
from dicom_node.db import now
from dicom_node.errors import NotFound
from dicom_node.intake_rows import AssociationRecord
from dicom_node.states import DeliveryState, JobState
from dicom_node.tables import Delivery, Job, Result
from tests.dicom_node.house import SEG, STUDY, House, head_ct, other_object

PACS = '[[delivery.destination]]\nname = "pacs"\nae_title = "PACS"\nhost = "127.0.0.1"\nport = 9\n'


def ledger(house: House) -> reports.Row:
    """As `dicom-node status` shows it."""
    with house.database.reading() as session:
        return reports.ledger(session)


def where(house: House) -> dict[str, int]:
    """Where studies are: what is not zero."""
    whole = ledger(house)
    assert whole["balances"]
    return {name: count for name, count in whole["studies"].items() if count}


def test_a_study_is_always_somewhere(house: House) -> None:
    """Through every state that a study can be in, the ledger balances."""
    assert where(house) == {}
    whole = head_ct(slices=13)
    house.receive(whole[:12])
    assert where(house) == {"received": 1, "receiving": 1}
    (job_id,) = house.sweep()
    assert where(house) == {"received": 1, "queued": 1}
    job = house.claimed(job_id)
    assert where(house) == {"received": 1, "running": 1}
    jobs.fail(house.database, job, code="X", text="x", retryable=False, config=house.config.worker)
    assert where(house) == {"received": 1, "failed": 1}
    jobs.retry(house.database, job_id)
    jobs.cancel(house.database, job_id, why="test")
    assert where(house) == {"received": 1, "cancelled": 1}
    jobs.retry(house.database, job_id)
    house.change(Job, worker_deaths=2)
    house.claimed(job_id)
    house.change(Job, lease_until=now() - timedelta(seconds=1))
    jobs.requeue_expired(house.database, house.config.worker)
    assert where(house) == {"received": 1, "quarantined": 1}
    jobs.retry(house.database, job_id)
    house.finish(house.claimed(job_id))
    assert where(house) == {"received": 1, "processed": 1}
    house.receive(whole[12:])
    assert where(house) == {"received": 1, "receiving": 1}
    (newer,) = house.sweep()
    assert where(house) == {"received": 1, "queued": 1}
    house.finish(house.claimed(newer), state=JobState.REJECTED, finding="rejected", rejection=("GAP", "x"))
    assert where(house) == {"received": 1, "rejected": 1}
    assert ledger(house)["results"] == {"current": 1, "made": 3}, "a rejected study has a report and no segmentation"


def test_a_study_without_images_is_accounted_for(house: House) -> None:
    """Received, and nothing to analyse."""
    house.receive([other_object(SEG, "SEG")])
    house.age(s=1001)
    house.sweep()
    assert where(house) == {"received": 1, "nothing_to_analyse": 1}


def test_a_finding_without_its_results_does_not_balance(house: House) -> None:
    """What must never happen is seen when it does."""
    house.finish(house.claimed())
    with house.database.session() as session:
        session.query(Result).delete()
    whole = ledger(house)
    assert (whole["balances"], whole["unfinished_results"]) == (False, 1)


def test_a_finding_of_which_nothing_was_asked_for_balances(house: House) -> None:
    """A profile of key images alone, and an exam without a lesion."""
    house.finish(house.claimed(), results=())
    assert ledger(house)["balances"]


def test_a_form_that_nothing_will_ever_send_does_not_balance(make_house: Callable[..., House]) -> None:
    """Spare behind one that is on its way, or given up, is in order; alone it is forgotten."""
    house = make_house(PACS + 'profile = "archive"\n')
    house.finish(house.claimed())
    assert (ledger(house)["balances"], ledger(house)["deliveries"]["spare"]) == (True, 4)
    with house.database.session() as session:
        session.execute(sa.update(Delivery).where(Delivery.rank == 0).values(state=DeliveryState.DEAD))
    assert ledger(house)["balances"]
    with house.database.session() as session:
        session.execute(sa.update(Delivery).where(Delivery.rank == 0).values(state=DeliveryState.REFUSED))
    whole = ledger(house)
    assert (whole["balances"], whole["forgotten_forms"]) == (False, 4)


def test_the_ledger_balances_while_studies_arrive(house: House) -> None:
    """Its counts are of one moment."""
    stop, wrong = threading.Event(), list[reports.Row]()

    def look() -> None:
        while not stop.is_set():
            whole = ledger(house)
            if not whole["balances"]:
                wrong.append(whole)

    looking = threading.Thread(target=look)
    looking.start()
    for number in range(1, 8):
        house.receive(head_ct(study_uid=f"2.25.{number}0", series_uid=f"2.25.{number}1"))
        house.sweep()
    stop.set()
    looking.join()
    assert wrong == []


def test_what_waits_and_what_is_open_is_counted(house: House) -> None:
    """For whoever watches the queue."""
    record = AssociationRecord("CT1", "ICHNODE", "127.0.0.1")
    house.job()
    house.receive(
        head_ct(slices=1, study_uid="2.25.9", series_uid="2.25.91", spacing_mm=[]), association=record, close=False
    )
    house.change(Job, queued_at=now() - timedelta(seconds=100))
    whole = ledger(house)
    assert whole["open_associations"] == 1
    assert 100 <= whole["oldest_waiting_s"] < 1000
    assert whole["instances"]["held"] == 13


def test_a_study_tells_its_story(make_house: Callable[..., House]) -> None:
    """Series and why, job, results, deliveries, history; no patient."""
    house = make_house(PACS)
    house.receive(head_ct(series_uid="2.25.3", kernel="H70h", description="Bone"))
    house.finish(house.claimed(house.job()), summary={"line": "a bleed"})
    with house.database.reading() as session:
        told = reports.show(session, STUDY)
        (listed,) = reports.studies(session, limit=5)
    assert (told["job"], told["answer"], told["instances"]) == ("SUCCEEDED", "a bleed", 24)
    assert told | listed == told
    assert {series["series_instance_uid"]: series["chosen"] for series in told["series"]} == {
        "2.25.2": True,
        "2.25.3": False,
    }
    assert all(series["reason"] for series in told["series"])
    (job,) = told["jobs"]
    assert [d["state"] for result in job["results"] for d in result["deliveries"]] == ["PENDING", "PENDING"]
    assert told["history"][-1]["event"] == "job succeeded"
    assert "Phantom" not in str(told)
    assert "PHANTOM1" not in str(told)


def test_lists_are_cut_and_chosen_by_state(house: House) -> None:
    """Newest first."""
    for number in (1, 2, 3):
        house.job(head_ct(study_uid=f"2.25.{number}0", series_uid=f"2.25.{number}1"))
    house.claimed(2)
    with house.database.reading() as session:
        assert [row["job"] for row in reports.jobs(session, state=None, limit=2)] == [3, 2]
        assert [row["job"] for row in reports.jobs(session, state=JobState.RUNNING, limit=9)] == [2]
        assert reports.deliveries(session, state=DeliveryState.DEAD, limit=9) == []
        with pytest.raises(NotFound, match=r"no study 1\.2\.3"):
            reports.show(session, "1.2.3")


def test_lesions_are_listed_as_people_count_them() -> None:
    """One row each; a subtype only where one is known, and nothing where an older summary says nothing."""
    one = {"number": 1, "side": "left", "volume_ml": 12.34, "abc2_ml": 11.0, "longest_axial_diameter_mm": 41.27}
    one |= {"mean_hu": 61.8, "key_slices": [14, 15, 13], "key_sop_instance_uids": ["1.2", "1.3", "1.4"]}
    row = {"lesion": "1", "side": "left", "volume mL": "12.3", "ABC/2 mL": "11.0", "longest axial mm": "41.3"}
    row |= {"mean HU": "62", "key slices": "14, 15, 13"}
    assert reports.lesions({"summary": {"lesions": [one]}}) == [row]
    two = {"number": 2, "subtype": "SDH", "volume_ml": 1.0}
    shown = reports.lesions({"summary": {"lesions": [one, two]}})
    assert [list(one) for one in shown] == [[*list(row)[:2], "subtype", *list(row)[2:]]] * 2
    assert (shown[0]["subtype"], shown[1]["subtype"], shown[1]["side"]) == ("", "SDH", "")
    assert reports.lesions({"summary": {}}) == []
