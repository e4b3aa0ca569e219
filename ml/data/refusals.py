"""Every reason for which images are not analysed, in one table: a stable code and a sentence for people.

The sentences name no patient. `{...}` is filled with facts about the images.
"""

from __future__ import annotations

from ml.errors import UnreadableStudy

SENTENCES: dict[str, str] = {
    "NO_IMAGES": "There is no image to analyse.",
    "NOT_DICOM": "{count} of {total} files cannot be parsed as DICOM.",
    "NOT_CT": "The images are not CT images ({found}).",
    "MATRIX_UNUSUAL": "{count} of {total} images have more rows or columns than CT scanners make.",
    "MULTI_FRAME": "Multi-frame (Enhanced) CT is not supported; send the series as single-frame CT images.",
    "MIXED_SERIES": "The images belong to {count} series; exactly one is expected.",
    "MIXED_STUDIES": "The images belong to {count} studies; give the folder of one.",
    "NO_ELIGIBLE_SERIES": "None of the {count} series shows a whole head, plain and in a soft kernel ({why}).",
    "MIXED_PATIENTS": "The images belong to more than one patient.",
    "MIXED_FRAMES_OF_REFERENCE": "The images have {count} frames of reference, so their positions cannot be compared.",
    "MIXED_ORIENTATIONS": "The slices are not parallel: their directions differ by up to {degrees:.1f} degrees.",
    "MIXED_GEOMETRY": "The slices differ in {what}.",
    "MIXED_ACQUISITIONS": "{count} positions hold two different images each: two acquisitions are mixed.",
    "DUPLICATE_POSITIONS": "{count} slices lie in the plane of another one but are shifted in it.",
    "DUPLICATE_UIDS": "{count} of {total} slices have the SOP Instance UID of another one, so none can be named by it.",
    "UID_MISSING": "{count} of {total} images lack a SOP Instance UID, by which a slice is named.",
    "POSITION_MISSING": "{count} of {total} images lack a valid Image Position (Patient).",
    "ORIENTATION_MISSING": "{count} of {total} images lack a valid Image Orientation (Patient).",
    "SPACING_MISSING": "{count} of {total} images lack a valid Pixel Spacing.",
    "RESCALE_MISSING": "{count} of {total} images lack a valid Rescale Slope and Intercept, so there are no HU values.",
    "PIXELS_UNDECODABLE": "The pixel data of {count} of {total} images cannot be decoded ({why}).",
    "NIFTI_UNREADABLE": "The NIfTI file cannot be read ({why}).",
    "NIFTI_GEOMETRY": "The NIfTI file does not hold the slices of one scan ({why}).",
    "MASK_MISPLACED": "The mask does not lie on the images ({why}).",
    "MASK_UNCLEAR": "What the mask marks is not clear ({why}).",
    "TOO_FEW_SLICES": "There are {count} slices; at least {least} are needed.",
    "GAP_IN_SLICES": "Slices are missing: {gap:.1f} mm between neighbours {where} where {usual:.1f} mm is expected.",
    "NOT_AXIAL": "The slices are not axial: their normal is {degrees:.0f} degrees off the body axis.",
    "NOT_HEAD": "The images do not show a head ({why}).",
    "IMPLAUSIBLE_HU": "The HU values are implausible for CT ({why}).",
}


def refusal(code: str, /, **facts: object) -> UnreadableStudy:
    """The error to raise for a code of the table."""
    return UnreadableStudy(code, SENTENCES[code].format(**facts))
