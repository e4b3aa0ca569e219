from pathlib import Path

import pytest
from pydicom.sr.codedict import codes

from worker.results.codes import TABLE, CodeTableError, coded, load_codes
from worker.results.summary import Answer

ENTRY = '[{name}]\nscheme = "SCT"\nvalue = "{value}"\nmeaning = "Something"\nsource = "nowhere"\n'


def table(folder: Path, text: str) -> Path:
    """A table with this text."""
    path = folder / "codes.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_no_code_stands_twice_in_the_shipped_table() -> None:
    """A code under two names could be corrected in one place and stay wrong in the other."""
    concepts = load_codes(TABLE).values()
    assert len({(c.scheme_designator, c.value) for c in concepts}) == len(concepts)


def test_codes_agree_with_the_dictionary_of_pydicom() -> None:
    """An independent copy of the standard's context groups has the same values."""
    expected = {
        "segment_category": codes.cid7150.MorphologicallyAbnormalStructure,
        "segment_type": codes.cid7151.Hemorrhage,
        "intracranial": codes.cid4.Intracranial,
        "present": codes.cid240.Present,
        "absent": codes.cid240.Absent,
        "undetermined": codes.cid240.Undetermined,
        "volume": codes.cid7469.Volume,
        "long_axis": codes.cid7470.LongAxis,
        "mean": codes.cid7464.Mean,
        "cubic_centimeter": codes.cid7462.CubicCentimeter,
        "procedure": codes.cid100.CTUnspecifiedBodyRegion,
        "artificial_intelligence": codes.cid7162.ArtificialIntelligence,
        "processing_equipment": codes.cid7005.ProcessingEquipment,
    }
    for name, code in expected.items():
        assert (coded(name).value, coded(name).scheme_designator) == (code.value, code.scheme_designator), name


def test_every_answer_has_a_code() -> None:
    """The study-level answer is written by its name."""
    assert len({coded(answer).value for answer in Answer}) == 3


def test_a_repeated_code_is_refused_with_both_names(tmp_path: Path) -> None:
    """A terminologist sees which two entries clash."""
    text = ENTRY.format(name="one", value="1") + ENTRY.format(name="two", value="1")
    with pytest.raises(CodeTableError, match=r"\[two\].*\[one\]"):
        load_codes(table(tmp_path, text))


@pytest.mark.parametrize(
    "text",
    [
        ENTRY.format(name="one", value="1" * 17),
        ENTRY.format(name="one", value="1").replace("meaning", "mening"),
        ENTRY.format(name="one", value=""),
    ],
)
def test_an_entry_that_no_object_could_carry_is_refused(tmp_path: Path, text: str) -> None:
    """SH holds 16 characters; a misspelt key would lose the meaning."""
    with pytest.raises(CodeTableError, match=r"\[one\]"):
        load_codes(table(tmp_path, text))
