"""`dicom-node rules test`: the choice of a series, from the headers of a folder, without running anything."""

from __future__ import annotations

from pathlib import Path

from dicom_node.eligibility import Choice, choose
from dicom_node.errors import NotFound, NotPossible
from dicom_node.facts import InstanceFacts
from dicom_node.read_facts import facts_of_file
from dicom_node.rules import EligibilityRules


def choose_in(folder: Path, rules: EligibilityRules) -> Choice:
    """The choice among all DICOM files below a folder.

    Raises NotFound when there are none, and NotPossible when one of them cannot be read or they are of several studies.
    """
    paths = sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else [folder]
    try:
        facts: list[InstanceFacts] = [read for path in paths if (read := facts_of_file(path)) is not None]
    except OSError as error:
        raise NotPossible(f"a file of {folder} cannot be read: {error.strerror}") from error
    if not facts:
        raise NotFound(f"no DICOM file was found below {folder}")
    studies = {one.study_instance_uid for one in facts}
    if len(studies) > 1:
        raise NotPossible(f"{folder} holds {len(studies)} studies; the choice is made in one")
    return choose(facts, rules)
