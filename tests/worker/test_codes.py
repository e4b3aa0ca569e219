import re
import tomllib
from pathlib import Path

import pytest
from pydicom.sr.codedict import codes

from worker.results.codes import TABLE, CodeTableError, coded, load_codes
from worker.results.summary import Answer

GROUPS = re.compile(r"(?<=CID )\d+|(?<=, )\d+")
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


def test_codes_stand_in_the_context_groups_that_they_name() -> None:
    """Pydicom has an independent copy of the standard's context groups."""
    entries = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    named = [(name, int(cid)) for name, entry in entries.items() for cid in GROUPS.findall(entry["source"])]
    assert len(named) > 30
    for name, cid in named:
        group = getattr(codes, f"cid{cid}")
        members = {(code.value, code.scheme_designator): code.meaning for code in map(group.__getattr__, group.dir())}
        assert (coded(name).value, coded(name).scheme_designator) in members, f"[{name}] is not in CID {cid}"
        meaning = members[coded(name).value, coded(name).scheme_designator].casefold()
        assert meaning in {coded(name).meaning.casefold(), coded(name).value}, f"[{name}] means {meaning}"


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
