"""What the paper prints, to stand beside what was measured here. Text, as printed: its errors are not corrected.

Every figure is of CQ500 (tables 1 and 4, supplemental table) or of the paper's own validation set (tables 2 and 3);
beside figures of other data it says what the method reached there, and nothing more.
"""

from __future__ import annotations

from ml.evaluation.study import ModelRole

TABLE_1: dict[ModelRole, tuple[str, str, str]] = {
    ModelRole.BASELINE: ("0.809 [0.803, 0.812]", "0.828 [0.817, 0.828]", "0.907 [0.906, 0.908]"),
    ModelRole.STUDENT: ("0.829 [0.825, 0.833]", "0.848 [0.843, 0.853]", "0.939 [0.938, 0.940]"),
    ModelRole.SLICE_ORACLE: ("0.787 [0.783, 0.787]", "0.823 [0.820, 0.823]", "0.894 [0.892, 0.894]"),
    ModelRole.PIXEL_ORACLE: ("0.828 [0.827, 0.829]", "0.850 [0.849, 0.852]", "0.943 [0.942, 0.944]"),
    ModelRole.QURE: ("--", "--", "0.941"),
}
"""DSC, pixel average precision, exam AUC."""
TABLE_2: dict[ModelRole, tuple[str, str]] = {
    ModelRole.CONTRAST_NONE: ("0.651 [0.649, 0.651]", "0.965 [0.965, 0.967]"),
    ModelRole.CONTRAST_POWER: ("0.653 [0.651, 0.654]", "0.975 [0.974, 0.976]"),
    ModelRole.CONTRAST_LOG: ("0.649 [0.647, 0.650]", "0.937 [0.935, 0.939]"),
    ModelRole.CONTRAST_ALL: ("0.681 [0.680, 0.682]", "0.933 [0.929, 0.933]"),
}
"""Pixel average precision, exam AUC."""
TABLE_3: dict[ModelRole, tuple[str, str]] = {
    ModelRole.NO_RANKER: ("0.682 [0.680, 0.683]", "0.918 [0.914, 0.919]"),
    ModelRole.RANKED_ONCE: ("0.688 [0.686, 0.688]", "0.948 [0.946, 0.949]"),
}
TABLE_4: dict[int, tuple[str, str, str, str]] = {
    1: ("0.828 [0.817, 0.82]", "0.848 [0.843, 0.853]", "0.809 [0.803, 0.812]", "0.829 [0.825, 0.833]"),
    2: ("0.854 [0.841, 0.855]", "0.874 [0.861, 0.874]", "0.824 [0.816, 0.825]", "0.842 [0.833, 0.842]"),
    3: ("0.852 [0.844, 0.857]", "0.875 [0.868, 0.880]", "0.823 [0.817, 0.825]", "0.842 [0.836, 0.844]"),
}
"""By reading: average precision of baseline and student, DSC of baseline and student."""
SUPPLEMENTAL: dict[str, tuple[str, str]] = {
    "SAH": ("0.914", "0.936"),
    "SDH": ("0.829", "0.919"),
    "IPH": ("0.872", "0.894"),
    "EDH": ("0.922", "0.976"),
}
"""Exam AUC of baseline and student; the paper has no row for IVH."""
SPECIFICITY_AT_092: dict[ModelRole, str] = {ModelRole.BASELINE: "0.630", ModelRole.STUDENT: "0.804"}
COMPARISONS: dict[tuple[str, ModelRole], str] = {
    ("exam AUC", ModelRole.BASELINE): "p = 0.009 (abstract), p < 0.001 (section 3.2)",
    ("exam AUC", ModelRole.SLICE_ORACLE): "p < 0.001",
    ("DSC", ModelRole.BASELINE): "p = 0.012 (abstract), p < 0.001 (section 3.2)",
    ("pixel average precision", ModelRole.BASELINE): "called significant, no p",
    ("pixel average precision", ModelRole.SLICE_ORACLE): "called significant, no p",
}
"""Of the student against that model."""
