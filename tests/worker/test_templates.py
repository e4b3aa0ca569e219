"""The report against TID 1500 and the templates below it, as PixelMed's validator knows them."""

from collections.abc import Callable

import pytest
from pydicom import Dataset

from dicom_node.result_forms import Form, FormName
from tests.peers.pixelmed import only_groups, validate_report
from tests.worker.conftest import Exam
from worker.results.report_tree import concept, walk

MakeExam = Callable[..., Exam]
REGION, SEGMENT = "111030", "121191"
GROUPS: dict[str, Callable[[Dataset], bool]] = {
    "exam (TID 1501)": lambda group: not {REGION, SEGMENT} & parts(group),
    "lesions (TID 1411)": lambda group: SEGMENT in parts(group),
    "an outline (TID 1410)": lambda group: REGION in parts(group),
}


def parts(group: Dataset) -> set[str]:
    """The concepts of a group's own items."""
    return {concept(item) for item in group.ContentSequence}


@pytest.mark.peer("pixelmed")
@pytest.mark.parametrize("wanted", GROUPS.values(), ids=GROUPS)
def test_pixelmed_finds_no_error_in_any_kind_of_group(make_exam: MakeExam, wanted: Callable[[Dataset], bool]) -> None:
    """Kind by kind, because the validator takes one template for all groups of a document."""
    exam = make_exam(tilt_degrees=18.0)
    sr = exam.write(Form(FormName.SR_3D, planar_regions=True), exam.seg())
    seen = iter(range(100))
    # One outline alone: the validator knows TID 1410 by there being exactly one region.
    part = only_groups(sr, lambda group: wanted(group) and (REGION not in parts(group) or next(seen) == 0))
    verdict = validate_report(part)
    assert not verdict.errors, verdict.output


@pytest.mark.peer("pixelmed")
def test_pixelmed_sees_a_procedure_of_another_context_group(make_exam: MakeExam) -> None:
    """Negative control: "CT head" is not in CID 100, which is why a less telling code is used."""
    exam = make_exam(positive=False)
    sr = exam.sr(exam.seg())
    procedure = next(item for item in walk(sr) if concept(item) == "121058").ConceptCodeSequence[0]
    procedure.CodeValue, procedure.CodeMeaning = "24725-4", "CT Head"
    assert any("not found in context group 100" in line for line in validate_report(sr).errors)
