"""Stored pixel values of one CT image to Hounsfield units.

Arithmetic is int32 until the rescale, so that no storage type wraps. Sources: PS3.3 C.7.6.3.1.1 (Bits Stored),
C.7.5.1.1.2 (Pixel Padding Value), PS3.5 section 8 (encodings).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.encaps import generate_fragments
from pydicom.pixels.utils import pixel_array
from pydicom.uid import JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes
from scipy import ndimage

from ml.data.part10 import is_of_the_disk, open_file, read_dataset
from ml.volume import HuArray

AIR_HU = -1024.0
"""What padding reads as, and the floor: scanners write -2000 or -3024 outside the reconstructed circle."""
TISSUE_HU = (-200.0, 2000.0)
"""Padding that means an HU in this range looks like tissue; then only what is joined to the border is padding."""

StoredArray = npt.NDArray[np.int32]
_ENDS_WITH_MARKER = frozenset([*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes])
_END_MARKER = b"\xff\xd9"


class UndecodablePixelsError(Exception):
    """The pixel data of one file; the message says why, in few words."""


def decode_hu(path: Path) -> HuArray:
    """(y, x) float32 HU of a single-frame CT image of any transfer syntax.

    Raises:
        UndecodablePixelsError: the file's content is broken, for good.
        OSError: the file cannot be read now; another try may succeed.
    """
    with open_file(path) as file:
        try:
            ds = read_dataset(file)
            _refuse_cut_stream(ds)
            stored = pixel_array(ds, raw=True)
            if stored.shape != (ds.Rows, ds.Columns):
                raise UndecodablePixelsError("the decoded size differs from Rows and Columns")  # noqa: TRY301 (as below)
            return to_hu(stored_values(stored, ds), ds)
        except UndecodablePixelsError:
            raise
        except Exception as error:  # decoders of five libraries raise whatever they like on broken streams
            if is_of_the_disk(error):
                raise
            raise UndecodablePixelsError(type(error).__name__) from error


def stored_values(raw: npt.NDArray[np.generic], ds: Dataset) -> StoredArray:
    """The Bits Stored low bits with their sign: old files keep overlays in the unused high bits."""
    unused = 32 - int(ds.BitsStored)
    values = raw.astype(np.int32 if ds.PixelRepresentation == 1 else np.uint32)
    return ((values << unused) >> unused).astype(np.int32)


def to_hu(stored: StoredArray, ds: Dataset) -> HuArray:
    """Rescaled to HU, padding as air. Undoes the 12-bit wrap-around of unsigned images without an offset."""
    slope, intercept = float(ds.RescaleSlope), float(ds.RescaleIntercept)
    padding = _padding(stored, ds, slope, intercept)
    if int(ds.BitsStored) == 12 and ds.PixelRepresentation == 0 and intercept > -100:
        # Such images cannot hold air (-1000): negative HU wrapped around 4096 when they were written (RSNA 2019).
        stored = (stored + 1000) % 4096
        intercept = -1000.0
    hu = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    hu[padding] = AIR_HU
    return np.asarray(np.maximum(hu, np.float32(AIR_HU)), dtype=np.float32)


def _padding(stored: StoredArray, ds: Dataset, slope: float, intercept: float) -> npt.NDArray[np.bool_]:
    value = ds.get("PixelPaddingValue")
    if value is None or value == "":
        return np.zeros(stored.shape, dtype=bool)
    first = _as_stored(int(value), ds)
    limit = ds.get("PixelPaddingRangeLimit")
    last = first if limit is None or limit == "" else _as_stored(int(limit), ds)
    low, high = sorted((first, last))
    padding = (stored >= low) & (stored <= high)
    hu_low, hu_high = sorted((low * slope + intercept, high * slope + intercept))
    if hu_high < TISSUE_HU[0] or hu_low > TISSUE_HU[1] or not padding.any():
        return padding
    labels, _ = ndimage.label(padding)
    border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return np.asarray(padding & np.isin(labels, border), dtype=np.bool_)


def _as_stored(value: int, ds: Dataset) -> int:
    """A padding value in the sign of the pixels: US and SS are mixed up in real files (-2000 written as 63536)."""
    if ds.PixelRepresentation == 1 and value >= 1 << 15:
        return value - (1 << 16)
    if ds.PixelRepresentation == 0 and value < 0:
        return value + (1 << 16)
    return value


def _refuse_cut_stream(ds: Dataset) -> None:
    """Some decoders fill the rest of a cut stream with grey and report no error."""
    if "PixelData" not in ds:
        raise UndecodablePixelsError("no pixel data")
    if ds.file_meta.TransferSyntaxUID not in _ENDS_WITH_MARKER:
        return
    fragments = list(generate_fragments(ds.PixelData))
    if not fragments or not fragments[-1].rstrip(b"\x00").endswith(_END_MARKER):
        raise UndecodablePixelsError("the compressed stream is cut off")
