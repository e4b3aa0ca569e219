"""Errors of `ml`, as a tree.

MlError                     root; `code` is stable and may be stored, `str(error)` is one sentence for people
+- UnreadableStudy          the images cannot be analysed (never retried)
+- DataError                a data set, its labels or prepared exams cannot be used as asked
+- BundleError              a bundle is missing, damaged or of another format
+- DeviceError              there is no such device here, or an engine does not run on it
+- TrainingError            a run cannot go on; the last checkpoint is usable
+- EvaluationError          records that cannot be written or read; finished ones stay
"""


class MlError(Exception):
    """Root of every error that `ml` raises on purpose."""

    code = "ML_ERROR"


class UnreadableStudy(MlError):
    """A series that cannot become a volume. `code` is one of the table in docs/errors.md."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


class DataError(MlError):
    """A data set, its labels or prepared exams cannot be used as asked; the message says what to do."""

    code = "DATA_UNUSABLE"


class BundleError(MlError):
    """A bundle that must not be used."""

    code = "BUNDLE_UNUSABLE"


class DeviceError(MlError):
    """A device that this machine lacks, or an engine that does not run on it; the message says what there is."""

    code = "DEVICE_UNUSABLE"


class TrainingError(MlError):
    """Training stopped; the message says what to do next."""

    code = "TRAINING_STOPPED"


class EvaluationError(MlError):
    """Records of answers that do not fit together; the message says what to do next."""

    code = "EVALUATION_STOPPED"
