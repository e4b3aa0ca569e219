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
WRAPPED_FROM_HU = {12: -1000, 16: -(1 << 15)}
"""By Bits Stored: HU below 0, down to this, lie at the upper end of the range. In 12 bits they wrapped around 4096
(RSNA 2019); of 16 bits conversions lose the sign."""
LEAST_CORNERS = 0.1
"""Share of the corners of all slices that have one value of tissue where surroundings were written as that value."""

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
    """Rescaled to HU, padding as air. Undoes the wrap-around of unsigned images without an offset: they hold no air."""
    slope, intercept = float(ds.RescaleSlope), float(ds.RescaleIntercept)
    padding = _padding(stored, ds, slope, intercept)
    lowest_hu = WRAPPED_FROM_HU.get(int(ds.BitsStored), 0)
    if lowest_hu and ds.PixelRepresentation == 0 and slope == 1 and intercept > -100:
        stored = (stored - lowest_hu) % (1 << int(ds.BitsStored))
        intercept = float(lowest_hu)
    hu = stored.astype(np.float32) * np.float32(slope) + np.float32(intercept)
    hu[padding] = AIR_HU
    return np.asarray(np.maximum(hu, np.float32(AIR_HU)), dtype=np.float32)


def surroundings_as_air(hu: HuArray) -> HuArray:
    """(z, y, x) with air where one value of tissue was written around the head, without a Pixel Padding Value.

    Masks and resampling leave 0 there, which is no air in HU. Corners of CT images show air or padding.
    """
    values, counts = np.unique(hu[:, [0, 0, -1, -1], [0, -1, 0, -1]], return_counts=True)
    counts[(values < TISSUE_HU[0]) | (values > TISSUE_HU[1])] = 0
    if counts.max() < LEAST_CORNERS * 4 * len(hu):
        return hu
    flat = hu == values[counts.argmax()]
    return np.where(np.stack([_joined_to_border(one) for one in flat]), np.float32(AIR_HU), hu)


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
    return _joined_to_border(padding)


def _joined_to_border(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """What of a slice's (y, x) mask reaches the border of the image."""
    labels, _ = ndimage.label(mask)
    border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return np.asarray(mask & np.isin(labels, border), dtype=np.bool_)


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
