"""No patient, no image and no collection on both sides of a split."""

from dataclasses import dataclass, replace
from itertools import pairwise

import pytest

from ml.data.splits import check_apart, find_overlaps, group, split
from ml.errors import DataError

SHARES = {"train": 0.8, "test": 0.2}


@dataclass(frozen=True)
class One:
    """An exam as a split sees it."""

    exam: str
    patient: str
    image_hashes: tuple[str, ...] = ()
    dataset: str = "rsna"
    family: str = "rsna"
    patient_known: bool = True


def corpus(count: int) -> list[One]:
    """Two exams of each patient, images of their own."""
    return [One(f"e{n}", f"p{n // 2}", (f"i{n}a", f"i{n}b")) for n in range(count)]


def test_exams_of_a_patient_stay_together_and_parts_have_their_size() -> None:
    """80 to 20 of 2,000 exams, to within three standard deviations of chance."""
    parts = split(corpus(2000), SHARES, key="1")
    assert len(parts["train"]) + len(parts["test"]) == 2000
    assert abs(len(parts["test"]) - 400) < 3 * 2 * (1000 * 0.2 * 0.8) ** 0.5
    assert not {one.patient for one in parts["train"]} & {one.patient for one in parts["test"]}


def test_a_split_depends_on_its_key_alone() -> None:
    """Not on the order of the exams, and exams that come later move none that were there."""
    few, many = corpus(200), corpus(400)
    first = {one.exam for one in split(few, SHARES, key="1")["test"]}
    assert {one.exam for one in split(few[::-1], SHARES, key="1")["test"]} == first
    assert {one.exam for one in split(many, SHARES, key="1")["test"]} & {one.exam for one in few} == first
    assert {one.exam for one in split(few, SHARES, key="2")["test"]} != first


def test_patients_with_one_image_in_common_stay_together() -> None:
    """Through a chain of four patients, in whatever order they come."""
    linked = [One(f"c{n}", f"q{n}", (f"link{n}", f"link{n + 1}")) for n in range(4)]
    exams = [*corpus(20), *linked]
    groups = dict(zip((one.exam for one in exams), group(exams), strict=True))
    assert {groups[one.exam] for one in linked} == {"rsna/q0"}
    backwards = dict(zip((one.exam for one in exams[::-1]), group(exams[::-1]), strict=True))
    assert backwards == groups
    for key in "abcdefgh":
        parts = split(exams, SHARES, key=key)
        assert sum(any(one in part for one in linked) for part in parts.values()) == 1


def test_an_exam_that_comes_later_moves_only_those_of_whom_it_shows_an_image() -> None:
    """They must stay with it, and their group may be named after its patient."""
    old = [*corpus(200), One("c1", "q1", ("link",))]
    new = One("c0", "q0", ("link",))
    moved = set[str]()
    for key in "abcdefgh":
        before, after = (
            {one.exam: name for name, part in split(exams, SHARES, key=key).items() for one in part}
            for exams in (old, [*old, new])
        )
        assert after["c0"] == after["c1"]
        moved |= {one.exam for one in old if before[one.exam] != after[one.exam]}
    assert moved == {"c1"}


def test_a_chain_without_its_middle_falls_apart() -> None:
    """The comparison above can fail."""
    linked = [One(f"c{n}", f"q{n}", (f"link{n}", f"link{n + 1}")) for n in (0, 2)]
    assert len(set(group(linked))) == 2
    assert all(one.image_hashes != two.image_hashes for one, two in pairwise(linked))


def test_the_patients_of_rsna_are_found_in_sets_made_of_it() -> None:
    """BHSD in training, RSNA in the test: refused, and the exams are named."""
    bhsd = [One(f"b{n}", f"p{n}", dataset="bhsd") for n in range(6)]
    with pytest.raises(DataError, match=r"test are not apart: bhsd b0 and rsna e1 are of one patient.* 3 more"):
        check_apart({"train": bhsd, "test": corpus(12)})
    check_apart({"train": bhsd, "test": [One("x", "p77")]})


def test_one_image_under_two_patients_is_refused() -> None:
    """It would be learnt by heart."""
    with pytest.raises(DataError, match="rsna a and rsna b show the same image"):
        check_apart({"train": [One("a", "p1", ("i",))], "test": [One("b", "p2", ("j", "i"))]})


def test_sets_of_one_collection_are_refused_where_patients_cannot_be_told() -> None:
    """A case of Seg-CQ500 that was renamed, against CQ500; it may be any of its patients."""
    renamed = One("case7", "x", dataset="seg-cq500", family="cq500", patient_known=False)
    cq500 = One("CQ500-CT-1", "y", dataset="cq500", family="cq500")
    for parts in ({"train": [renamed], "test": [cq500]}, {"train": [cq500], "test": [renamed]}):
        with pytest.raises(DataError, match="both made of cq500, and whether of one patient cannot be told"):
            check_apart(parts)
    check_apart({"train": [renamed], "test": [One("e", "p")]})
    check_apart({"train": [renamed], "test": [replace(renamed, exam="case8", patient="z")]})
    assert find_overlaps([cq500], [One("e", "y")]) == []
