"""Required attributes of an object by the standard's module tables (PS3.3 annex A), as highdicom packages them.

Presence only: conditions (1C, 2C), enumerations and the contents of functional groups and of SR content items are not
in the tables. Same data as the writing library uses, so this finds what we forgot, not what the tables have wrong.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from highdicom._standard_utils import get_iod_module_map, get_module_attribute_map, get_sop_class_iod_map
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.valuerep import STR_VR

from dicom_node.result_forms import SOP_CLASSES, FormName

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pydicom import Dataset

_UNDECIDABLE = {"SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "ContentSequence"}
"""Below these the tables list every alternative as if it were required."""
_UNDECIDABLE_MODULES = {"sr-document-content"}
"""Likewise: what a content item needs depends on its value type."""

_YOUNGER_THAN_THE_TABLES = {str(SOP_CLASSES[FormName.SEG_LABELMAP]): "segmentation"}
"""SOP class -> the IOD that it shares."""


def missing_attributes(ds: Dataset) -> list[str]:
    """Keywords (with their path) of type 1 attributes without a value and of type 2 attributes that are not there."""
    iod = get_sop_class_iod_map().get(str(ds.SOPClassUID), _YOUNGER_THAN_THE_TABLES.get(str(ds.SOPClassUID), ""))
    modules = [item["key"] for item in get_iod_module_map()[iod] if item["usage"] == "M"]
    tables = get_module_attribute_map()
    return _missing(ds, [one for key in modules if key not in _UNDECIDABLE_MODULES for one in tables[key]])


def whole_items(keyword: str, items: Iterable[Dataset], modules: Iterable[str]) -> list[Dataset]:
    """Those items of a sequence at the top of these modules that have what they must have."""
    inside = _inside(keyword, tuple(modules))
    return [item for item in items if not _missing(item, inside)]


@cache
def _inside(keyword: str, modules: tuple[str, ...]) -> list[dict[str, Any]]:
    """The attributes below a sequence, their paths counted from its items."""
    attributes = (one for key in modules for one in get_module_attribute_map()[key])
    return [{**one, "path": one["path"][1:]} for one in attributes if one["path"][:1] == [keyword]]


def _missing(ds: Dataset, attributes: Iterable[dict[str, Any]]) -> list[str]:
    missing: list[str] = []
    for attribute in attributes:
        path, keyword, kind = attribute["path"], str(attribute["keyword"]), attribute["type"]
        if kind not in {"1", "2"} or _UNDECIDABLE.intersection(path):
            continue
        if any(_lacks(item, keyword, empty_allowed=kind == "2") for item in _items(ds, path)):
            missing.append("/".join((*path, keyword)))
    return missing


def _items(ds: Dataset, path: Sequence[str]) -> Iterator[Dataset]:
    if not path:
        yield ds
        return
    for item in ds.get(path[0]) or []:
        yield from _items(item, path[1:])


def _lacks(item: Dataset, keyword: str, *, empty_allowed: bool) -> bool:
    if keyword not in item:
        return True
    element: DataElement | RawDataElement | None = item.get_item(keyword)  # unread, so never decoded
    if isinstance(element, RawDataElement):
        padding = b" \0" if dictionary_VR(element.tag) in STR_VR else b""
        empty = not (element.value or b"").strip(padding)
    else:
        empty = element is None or element.is_empty
    return empty and not empty_allowed
