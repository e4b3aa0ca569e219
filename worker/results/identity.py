"""Patient and study of a result: the source's own bytes, in the source's own character set.

Copied are the attributes of the Patient, Clinical Trial Subject, General Study, Patient Study and Clinical Trial Study
modules (PS3.3 C.7.1 and C.7.2). The raw value is carried over, not its decoded text, so that a PACS finds the very
name it sent, also where the source declares no character set or a wrong one. Only when a destination asks for it, or
when a text from our own settings needs other characters, is the whole object turned to ISO_IR 192 (UTF-8).
"""

from __future__ import annotations

import copy
from functools import cache
from typing import TYPE_CHECKING

from highdicom._standard_utils import get_iod_module_map, get_module_attribute_map
from pydicom import DataElement, config
from pydicom.charset import convert_encodings
from pydicom.datadict import dictionary_VM, dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement, convert_raw_data_element
from pydicom.valuerep import VR, validate_value

from worker.results.module_tables import whole_items

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pydicom import Dataset

_UTF_8 = "ISO_IR 192"
_TEXT_VRS = {VR.LO, VR.LT, VR.PN, VR.SH, VR.ST, VR.UC, VR.UT}
_CHECKED_VRS = {VR.AS, VR.CS, VR.DA, VR.DS, VR.DT, VR.IS, VR.TM}
_SEXES = {"", "M", "F", "O"}


@cache
def identity_keywords() -> dict[str, bool]:
    """Every top-level attribute of the patient and study modules; True where it must be there, if empty (type 2)."""
    attributes = get_module_attribute_map()
    return {
        str(attribute["keyword"]): usage == "M" and attribute["type"] == "2"
        for module, usage in _modules().items()
        for attribute in attributes[module]
        if not attribute["path"]
    }


@cache
def _modules() -> dict[str, str]:
    """The patient and study modules: key in the standard's tables -> usage."""
    return {
        item["key"]: item["usage"] for item in get_iod_module_map()["ct-image"] if item["ie"] in {"Patient", "Study"}
    }


def character_set(ds: Dataset) -> str | Sequence[str] | None:
    """Specific Character Set; None where there is none, whether the attribute is absent or empty."""
    return ds.get("SpecificCharacterSet") or None


def set_character_set(header: Dataset, target: Dataset, own_texts: Iterable[str] = (), *, utf_8: bool = False) -> None:
    """Declares the source's character set on `target`, or UTF-8 where asked for or where our own texts need it."""
    charset = character_set(header)
    if utf_8 or not "".join(own_texts).isascii():
        charset = _UTF_8
    if "SpecificCharacterSet" in target:
        del target.SpecificCharacterSet
    if charset:
        target.SpecificCharacterSet = copy.deepcopy(charset)


def copy_identity(header: Dataset, target: Dataset) -> None:
    """Puts the patient and study attributes of `header` on `target`; type 2 attributes are there, if empty.

    `target` must be fresh from bytes, in its final character set: only then does pydicom write raw bytes unread.
    A date, time, number or code that breaks its value representation (a birth date of "unknown") is left empty, and an
    item of a sequence that lacks what it must have (a code without a meaning) is left out: the object would be invalid
    and a PACS may refuse it. Names and identifiers are carried over as they are.
    """
    decoded = character_set(header) != character_set(target)
    for keyword, required in identity_keywords().items():
        _copy_one(header, target, keyword, required=required, decoded=decoded)
    if header.get("PatientIdentityRemoved") == "YES" and not (
        target.get("DeidentificationMethod") or target.get("DeidentificationMethodCodeSequence")
    ):
        target.DeidentificationMethod = "not stated in the source"  # type 1C: it may not be empty


def usable(element: DataElement | None) -> bool:
    """Whether there is a value and it keeps the form of its value representation; texts always do."""
    if element is None or element.is_empty:
        return False
    if element.VR not in _CHECKED_VRS:
        return True
    try:
        for value in element.value if element.VM > 1 else [element.value]:
            validate_value(element.VR, str(value), config.RAISE)
    except (ValueError, TypeError):
        return False
    return element.keyword != "PatientSex" or str(element.value) in _SEXES


def valid_element(ds: Dataset, keyword: str) -> DataElement | None:
    """The element, or None unless it has as many values as it may have, each of the form of its value representation.

    For what need not be there: a text that is too long is none.
    """
    element = decoded_element(ds, keyword)
    if element is None or not usable(element) or (element.VM > 1 and dictionary_VM(element.tag) == "1"):
        return None
    try:
        for value in element.value if element.VM > 1 else [element.value]:
            validate_value(element.VR, str(value), config.RAISE)
    except ValueError:
        return None
    return element


def decoded_element(ds: Dataset, keyword: str) -> DataElement | None:
    """The element, or None where there is none or pydicom cannot read it. The dataset keeps its raw bytes.

    Of a sequence of the patient and study modules those items that are whole.
    """
    tag = tag_for_keyword(keyword)
    if tag is None or tag not in ds:
        return None
    element: DataElement | RawDataElement | None = ds.get_item(tag)
    try:
        if dictionary_VR(tag) == VR.SQ:
            sequence = ds[tag]
            return _whole(sequence) if sequence.VR == VR.SQ else None
        if isinstance(element, RawDataElement):
            return convert_raw_data_element(element, encoding=_encodings(ds), ds=ds)
    except (ValueError, TypeError, OverflowError, KeyError, NotImplementedError):
        return None  # a number or date that is none; NotImplementedError is pydicom's for a VR that it does not know
    return element


def _whole(sequence: DataElement) -> DataElement:
    items = whole_items(sequence.keyword, sequence.value, _modules())
    return DataElement(sequence.tag, VR.SQ, items)


def raw_text(ds: Dataset, keyword: str) -> RawDataElement | None:
    """The bytes of a text as they were read, padded to even length; None for all that is not a raw text."""
    tag = tag_for_keyword(keyword)
    element: object = ds.get_item(tag) if tag is not None and tag in ds else None
    if tag is None or not isinstance(element, RawDataElement) or element.value is None:
        return None
    vr = dictionary_VR(tag)
    if vr not in _TEXT_VRS:
        return None
    value = element.value + b" " if len(element.value) % 2 else element.value
    return element._replace(VR=vr, length=len(value), value=value, is_implicit_VR=False, is_little_endian=True)


def _encodings(ds: Dataset) -> str | list[str]:
    encodings: str | list[str] = convert_encodings(ds.get("SpecificCharacterSet"))
    return encodings


def _copy_one(header: Dataset, target: Dataset, keyword: str, *, required: bool, decoded: bool) -> None:
    if keyword in target:
        delattr(target, keyword)
    raw = None if decoded else raw_text(header, keyword)
    if raw is not None and _stripped(raw):
        target[raw.tag] = raw
        return
    element = decoded_element(header, keyword) if raw is None else None
    if element is not None and usable(element):
        target[element.tag] = copy.deepcopy(element)
    elif required:
        setattr(target, keyword, "")


def identity_difference(header: Dataset, result: Dataset) -> str | None:
    """The keyword of the first attribute in which a result, fresh from a file, differs from its source.

    Texts are compared as bytes where the character sets are equal, else as decoded.
    """
    same_set = character_set(header) == character_set(result)
    for keyword in identity_keywords():
        one, other = raw_text(header, keyword), raw_text(result, keyword)
        if same_set and one is not None and other is not None:
            equal = _stripped(one) == _stripped(other)
        else:
            equal = _meaning(header, keyword) == _meaning(result, keyword)
        if not equal and not (keyword == "DeidentificationMethod" and not _meaning(header, keyword)):
            return keyword
    return None


def _stripped(raw: RawDataElement) -> bytes:
    return (raw.value or b"").rstrip(b" \0")


def _meaning(ds: Dataset, keyword: str) -> str:
    """The value as text, empty where there is none or none that can be used."""
    element = decoded_element(ds, keyword)
    return str(element.value).rstrip() if element is not None and usable(element) else ""
