"""Profiles become variants: what is written once for whom, and in which order it is preferred."""

from __future__ import annotations

from pathlib import Path

import pytest

from dicom_node.config import Config, parse_config
from dicom_node.errors import ConfigError
from dicom_node.states import ResultKind

TWO_FORMS = '[[results.profile]]\nname = "new"\nseg = ["seg-labelmap", "seg-binary"]\nsr = ["sr-3d", "sr"]\n'


def config(text: str, **destinations: str) -> Config:
    """Config text with destinations, each with its profile."""
    for name, profile in destinations.items():
        text += (
            f'[[delivery.destination]]\nname = "{name}"\nae_title = "A"\nhost = "h"\nport = 1\nprofile = "{profile}"\n'
        )
    return parse_config(text, source="test", base=Path("/nowhere"))


def keys(config: Config, *, segmented: bool = True) -> list[str]:
    """What is written."""
    return [variant.key for variant in config.wanted(segmented=segmented)]


def test_the_standard_profile_is_there_without_configuration() -> None:
    """With a destination and without one."""
    expected = ["seg-binary, series 9001", "sr-3d of seg-binary, series 9001"]
    assert keys(config("")) == keys(config("", a="standard", b="standard")) == expected


def test_one_of_the_same_name_replaces_a_built_in_profile() -> None:
    """For every destination that says nothing."""
    assert keys(config('[[results.profile]]\nname = "standard"\nseg = []\nsr = ["sr"]\n', a="standard")) == [
        "seg-binary, series 9001",
        "sr of seg-binary, series 9001",
    ], "the report refers to a segmentation, which stays in the archive"


def test_a_report_is_written_for_each_segmentation_that_may_be_sent() -> None:
    """A PACS that gets the second segmentation gets the report that refers to it."""
    found = config(TWO_FORMS, a="new")
    assert [v.key.partition(",")[0] for v in found.variants("new", ResultKind.SR)] == [
        "sr-3d of seg-labelmap",
        "sr of seg-labelmap",
        "sr-3d of seg-binary",
        "sr of seg-binary",
    ]
    assert [v.key.partition(",")[0] for v in found.variants("new", ResultKind.SR, segmented=False)] == ["sr-3d", "sr"]


def test_destinations_that_want_the_same_object_share_it() -> None:
    """Whatever their profiles are called; in its own band of series numbers it is another object."""
    same = '[[results.profile]]\nname = "same"\n'
    band = '[[results.profile]]\nname = "band"\nfirst_series_number = 700\n'
    assert len(keys(config(same, a="standard", b="same"))) == 2
    assert len(keys(config(TWO_FORMS, a="standard", b="new"))) == 6, "seg-binary and its report are shared"
    assert len(keys(config(band, a="standard", b="band"))) == 4


def test_options_hold_for_the_forms_that_can_have_them() -> None:
    """RLE for the label map, and the rest as it must be."""
    text = TWO_FORMS + 'empty_frames = true\ncharacter_set = "utf-8"\ntransfer_syntax = "1.2.840.10008.1.2.5"\n'
    seg, binary, *reports = config(text, a="new").wanted()
    assert seg.form.key == "seg-labelmap empty_frames utf_8 1.2.840.10008.1.2.5"
    assert binary.form.key == "seg-binary empty_frames utf_8"
    assert {report.form.key for report in reports} == {"sr-3d utf_8", "sr utf_8"}


def test_the_built_in_profiles_differ_in_what_they_say() -> None:
    """Each can be named without being written down."""
    wanted = {name: keys(config("", a=name)) for name in ("standard", "viewer", "everything", "archive")}
    assert wanted["viewer"] == [
        "seg-binary, series 9001",
        "sr-3d planar_regions of seg-binary, series 9001",
        "kos, series 9001",
        "sc, series 9001",
    ]
    assert wanted["everything"][-1] == "pdf, series 9001"
    assert wanted["archive"][0] == "seg-labelmap, series 9001"
    assert len({tuple(found) for found in wanted.values()}) == 4


def test_names_of_profiles_differ() -> None:
    """Nobody could say which one is meant."""
    with pytest.raises(ConfigError, match=r"two \[\[results.profile\]\] are called 'new'"):
        config(TWO_FORMS + TWO_FORMS)
