"""DICOM files as people have them on disk: without preamble, without file meta information; judged as `ml` does."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from pydicom.errors import InvalidDicomError
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from dicom_node.errors import DestinationRefused
from dicom_node.facts import facts_to_json
from dicom_node.part10 import read_file
from dicom_node.read_facts import facts_of_file
from dicom_node.transport import outgoing
from ml.data.part10 import begins_like_dicom
from tests.dicom_factory import ct_series

NO_DICOM = [b"", b"hello", b"\x08\0", b"\x08\0\x20\0DA\0\0", b"\x02\0\0\0SH\x04\0", b"\x10\0\x10\0PN\0\0"]


def cut(path: Path, *, meta: bool) -> Path:
    """The same file without preamble; without file meta information as well."""
    content = path.read_bytes()
    length = 144 + int.from_bytes(content[140:144], "little") if meta else 132
    path.write_bytes(content[length:])
    return path


@pytest.mark.parametrize("meta", [False, True], ids=["preamble", "preamble and meta information"])
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_file_without_preamble_is_what_it_was_with_it(tmp_path: Path, syntax: str, meta: bool) -> None:
    """To whoever sends it, and to whoever tries the rules on it."""
    ct_series(tmp_path, slices=1, rows=4, columns=4, transfer_syntax=syntax)
    (path,) = tmp_path.iterdir()
    whole, facts = pydicom.dcmread(path), facts_of_file(path)
    assert facts is not None
    cut(path, meta=meta)
    ds, again, sent = read_file(path), facts_of_file(path), outgoing(1, path)
    assert (ds.SOPInstanceUID, ds.PixelData) == (whole.SOPInstanceUID, whole.PixelData)
    assert again is not None
    assert facts_to_json(again) == facts_to_json(facts)
    assert (sent.sop_class_uid, sent.transfer_syntax_uid) == (CTImageStorage, syntax)
    assert begins_like_dicom(path)


@pytest.mark.parametrize("start", NO_DICOM)
@pytest.mark.parametrize("rest", [b"", b" and text" * 40])
def test_what_begins_with_no_element_is_no_dicom(tmp_path: Path, start: bytes, rest: bytes) -> None:
    """Neither here nor in `ml`, which may not be asked."""
    path = tmp_path / "file"
    path.write_bytes(start + rest)
    with pytest.raises(InvalidDicomError):
        read_file(path)
    with pytest.raises(DestinationRefused):
        outgoing(1, path)
    assert facts_of_file(path) is None
    assert not begins_like_dicom(path)
