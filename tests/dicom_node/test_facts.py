"""Header facts from bytes as received: every transfer syntax, every kind of damage, against pydicom's reading."""

from __future__ import annotations

import io
import struct
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, uid
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence

from dicom_node.dataset_walk import NotADataset, inflate, walk
from dicom_node.facts import facts_from_json, facts_to_json
from dicom_node.read_facts import facts_of_file, read_facts
from tests.dicom_factory import SYNTAXES, ct_series
from tests.real_heads import ge_files

if TYPE_CHECKING:
    from collections.abc import Callable


def encode(dataset: Dataset, *, implicit: bool = False) -> bytes:
    """The dataset's bytes in Explicit (or Implicit) VR Little Endian."""
    buffer = pydicom.filebase.DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, implicit
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def small(**attributes: Any) -> Dataset:
    """A dataset with the four UIDs and what is given."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = uid.CTImageStorage, "1.2.3.4.5"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.4"
    for name, value in attributes.items():
        setattr(dataset, name, value)
    return dataset


@pytest.mark.parametrize("syntax", SYNTAXES, ids=str)
def test_facts_of_every_transfer_syntax(tmp_path: Path, syntax: str) -> None:
    """The same facts, however the dataset is encoded."""
    (sent,) = ct_series(tmp_path, slices=1, transfer_syntax=syntax)
    (path,) = tmp_path.iterdir()
    facts = facts_of_file(path)
    assert facts is not None
    assert facts.transfer_syntax_uid == syntax
    assert (facts.sop_instance_uid, facts.series_instance_uid) == (sent.SOPInstanceUID, sent.SeriesInstanceUID)
    assert facts.image_type == ("ORIGINAL", "PRIMARY", "AXIAL")
    assert (facts.modality, facts.convolution_kernel, facts.series_number, facts.rows) == ("CT", "H30s", 2, 64)
    assert facts.position_lps == tuple(float(value) for value in sent.ImagePositionPatient)
    assert facts.orientation_lps == tuple(float(value) for value in sent.ImageOrientationPatient)
    assert facts.pixel_spacing_mm == tuple(float(value) for value in sent.PixelSpacing)
    assert facts.slice_thickness_mm == 5.0
    assert facts_from_json(facts_to_json(facts)) == facts


def test_a_real_head_against_pydicom() -> None:
    """Every attribute of 28 files of a GE scanner as pydicom reads it."""
    files = ge_files()
    assert len(files) == 28
    for path in files:
        facts, dataset = facts_of_file(path), pydicom.dcmread(path, stop_before_pixels=True)
        assert facts is not None
        assert facts.sop_instance_uid == dataset.SOPInstanceUID
        assert facts.manufacturer == dataset.Manufacturer
        assert facts.series_number == dataset.SeriesNumber
        assert facts.position_lps == tuple(dataset.ImagePositionPatient)
        assert facts.slice_thickness_mm == dataset.SliceThickness


@pytest.mark.parametrize(("told", "lossy"), [("01", True), ("00", None), ("", None), (None, None)])
def test_whether_pixels_were_compressed_with_loss(told: str | None, lossy: bool | None) -> None:
    """Only the word for it counts."""
    data = encode(small(LossyImageCompression=told))
    assert read_facts(data, uid.ExplicitVRLittleEndian).lossy is lossy


@pytest.mark.parametrize(
    ("charset", "text"),
    [
        ("ISO_IR 192", "Tête ÄÖÜ 頭部"),
        ("ISO_IR 100", "Kopf nüchtern"),
        ("ISO_IR 144", "Голова"),
        (["", "ISO 2022 IR 87"], "頭部"),
        ("GB18030", "头部"),
    ],
)
def test_descriptions_in_any_character_set(charset: Any, text: str) -> None:
    """As the source's Specific Character Set says."""
    data = encode(small(SpecificCharacterSet=charset, SeriesDescription=text))
    assert read_facts(data, uid.ExplicitVRLittleEndian).series_description == text


@pytest.mark.parametrize(
    ("tag", "vr", "value", "field"),
    [
        (0x00200032, b"DS", b"1\\2", "position_lps"),
        (0x00200032, b"DS", b"1\\2\\x ", "position_lps"),
        (0x00200032, b"DS", b"1\\2\\nan ", "position_lps"),
        (0x00200032, b"DS", b"1\\2\\1e999", "position_lps"),
        (0x00200037, b"DS", b"", "orientation_lps"),
        (0x00280030, b"DS", b"0.5 ", "pixel_spacing_mm"),
        (0x00180050, b"DS", b"thick ", "slice_thickness_mm"),
        (0x00200011, b"IS", b"two ", "series_number"),
        (0x00200011, b"IS", b"99999999999999", "series_number"),
        (0x00280010, b"US", b"", "rows"),
        (0x0008103E, b"LO", b"  ", "series_description"),
        (0x00080060, b"CS", b"", "modality"),
    ],
)
def test_a_malformed_value_is_none(tag: int, vr: bytes, value: bytes, field: str) -> None:
    """Never an error: the rules that need it will say that it is missing."""
    elements = dict(_elements(encode(small())))
    elements[tag] = struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, len(value)) + value
    facts = read_facts(b"".join(elements[one] for one in sorted(elements)), uid.ExplicitVRLittleEndian)
    assert getattr(facts, field) is None


@pytest.mark.parametrize("charset", ["NO SUCH SET", "ISO_IR 6\\ISO 2022 IR 999"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, about the character set
def test_an_unknown_character_set(charset: str) -> None:
    """Some text rather than none."""
    elements = dict(_elements(encode(small(SeriesDescription="x"))))
    padded = charset.encode() + b" " * (len(charset) % 2)
    elements[0x00080005] = struct.pack("<HH2sH", 8, 5, b"CS", len(padded)) + padded
    elements[0x0008103E] = struct.pack("<HH2sH", 8, 0x103E, b"LO", 4) + b"t\xeate"
    facts = read_facts(b"".join(elements[one] for one in sorted(elements)), uid.ExplicitVRLittleEndian)
    assert facts.series_description is not None


def _elements(data: bytes) -> list[tuple[int, bytes]]:
    """Tag and encoded bytes of short elements."""
    found = list(walk(data, uid.ExplicitVRLittleEndian))
    return [(e.tag, data[e.offset - 8 : e.offset + e.length]) for e in found]


def nested(depth: int) -> Dataset:
    """Sequences in sequences of undefined length, with a private one and one of unknown VR."""
    dataset = small(SeriesDescription="after") if depth == 0 else Dataset()
    dataset.PatientComments = "x" * 20
    if depth < 3:
        items = Sequence([nested(depth + 1), nested(depth + 1)])
        dataset.add_new(0x00081140, "SQ", items)
        dataset[0x00081140].is_undefined_length = True
        for item in items:
            item.is_undefined_length_sequence_item = True
    return dataset


@pytest.mark.parametrize("implicit", [False, True])
def test_sequences_are_stepped_over(*, implicit: bool) -> None:
    """Nested, of undefined length, with items of undefined length: attributes inside are not taken for the image's."""
    dataset = nested(0)
    dataset[0x00081140].value[0].SeriesDescription = "inside"
    syntax = uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian
    data = encode(dataset, implicit=implicit)
    assert read_facts(data, syntax).series_description == "after"
    for cut in range(1, len(data), 7):
        with pytest.raises(NotADataset):
            read_facts(data[: len(data) - cut], syntax)


def test_bytes_that_end_too_early(tmp_path: Path) -> None:
    """Wherever the pixel data is cut off, in every syntax."""
    for syntax in SYNTAXES:
        folder = tmp_path / syntax
        ct_series(folder, slices=1, transfer_syntax=syntax)
        (path,) = folder.iterdir()
        data = path.read_bytes()
        for cut in (1, 9, 100, len(data) // 2):
            path.write_bytes(data[:-cut])
            # Deflated data may end in padding.
            if syntax != uid.DeflatedExplicitVRLittleEndian or cut > 9:
                assert facts_of_file(path) is None, f"{syntax} without its last {cut} bytes"


def test_padding_after_the_dataset() -> None:
    """Some senders pad with zeros, or with Data Set Trailing Padding (FFFC,FFFC)."""
    data = encode(small())
    for padding in (b"\0", bytes(300), struct.pack("<HH2sHL", 0xFFFC, 0xFFFC, b"OB", 0, 4) + bytes(4)):
        assert read_facts(data + padding, uid.ExplicitVRLittleEndian).study_instance_uid == "1.2.3"


@pytest.mark.parametrize("name", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"])
@pytest.mark.parametrize("how", [delattr, lambda ds, name: setattr(ds, name, "")])
def test_the_four_uids_are_required(name: str, how: Callable[[Dataset, str], None]) -> None:
    """Missing or empty."""
    dataset = small()
    how(dataset, name)
    with pytest.raises(NotADataset):
        read_facts(encode(dataset), uid.ExplicitVRLittleEndian)


def test_patients_are_compared_without_being_known() -> None:
    """Same id, same digest; another issuer, another digest; the id itself is nowhere."""

    def digest(**attributes: str) -> str:
        facts = read_facts(encode(small(**attributes)), uid.ExplicitVRLittleEndian)
        assert "HOSPITAL-42" not in str(facts)
        return facts.patient_digest

    same = digest(PatientID="HOSPITAL-42", PatientName="A^B")
    assert same == digest(PatientID="HOSPITAL-42", PatientName="C^D")
    assert same != digest(PatientID="HOSPITAL-42", IssuerOfPatientID="X")
    assert same != digest(PatientID="HOSPITAL-43")


@given(st.binary(max_size=300), st.sampled_from([*SYNTAXES[:4]]))
def test_no_bytes_raise_anything_else(data: bytes, syntax: str) -> None:
    """Garbage of any kind is NotADataset."""
    with pytest.raises(NotADataset):
        read_facts(data, syntax)


@given(st.integers(0, 400), st.binary(min_size=1, max_size=8), st.booleans())
def test_no_damage_raises_anything_else(at: int, damage: bytes, implicit: bool) -> None:
    """A dataset with bytes written over is read, or is NotADataset."""
    data = bytearray(encode(nested(0), implicit=implicit))
    at %= len(data)
    data[at : at + len(damage)] = damage
    try:
        read_facts(bytes(data), uid.ImplicitVRLittleEndian if implicit else uid.ExplicitVRLittleEndian)
    except NotADataset:
        return


def test_a_long_gap_of_zeros_is_refused_at_once() -> None:
    """A megabyte that a disk had lost kept a listener busy for a quarter of an hour: each step looked at the rest."""
    began = time.monotonic()
    with pytest.raises(NotADataset, match="zeros"):
        list(walk(bytes(2**20) + b"\1\0", uid.ImplicitVRLittleEndian))
    assert time.monotonic() - began < 10


def test_endless_nesting_is_refused() -> None:
    """A thousand sequences in each other must not exhaust the stack."""
    opening = struct.pack("<HH2sHL", 8, 0x1140, b"SQ", 0, 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF)
    with pytest.raises(NotADataset, match="deeply"):
        read_facts(opening * 1000, uid.ExplicitVRLittleEndian)


def test_a_deflate_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What inflates beyond all measure is not inflated to its end."""
    monkeypatch.setattr("dicom_node.dataset_walk.MAX_INFLATED_BYTES", 5_000_000)
    deflater = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = deflater.compress(bytes(50_000_000)) + deflater.flush()
    assert len(bomb) < 100_000
    with pytest.raises(NotADataset, match="too large"):
        inflate(bomb)


def test_files_that_are_none(tmp_path: Path) -> None:
    """Empty, text, a preamble alone, a broken file meta information."""
    for data in (b"", b"hello", bytes(128) + b"DICM", bytes(128) + b"DICM\x02\0\0\0UL\x04\0\xff\0\0\0abc"):
        (tmp_path / "file").write_bytes(data)
        assert facts_of_file(tmp_path / "file") is None
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, ct_series(slices=1)[0], enforce_file_format=True)
    (tmp_path / "file").write_bytes(buffer.getvalue())
    assert facts_of_file(tmp_path / "file") is not None
