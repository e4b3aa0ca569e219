"""Stored values to HU, quirks of real scanners included."""

import numpy as np
import numpy.typing as npt
import pytest
from pydicom.dataset import Dataset

from ml.data.pixels import AIR_HU, stored_values, to_hu


def description(*, bits: int = 16, signed: bool = False, slope: float = 1, intercept: float = -1024) -> Dataset:
    """The attributes that give stored values their meaning."""
    ds = Dataset()
    ds.BitsStored, ds.PixelRepresentation = bits, int(signed)
    ds.RescaleSlope, ds.RescaleIntercept = slope, intercept
    return ds


def hu(values: list[list[int]], ds: Dataset) -> list[list[float]]:
    """HU of stored values."""
    result: list[list[float]] = to_hu(np.array(values, dtype=np.int32), ds).tolist()
    return result


def test_rescale_is_applied() -> None:
    """Slope and intercept."""
    assert hu([[0, 1024, 2048]], description(slope=2, intercept=-2000)) == [[AIR_HU, 48, 2096]]


def test_twelve_bit_unsigned_images_without_offset_wrapped_around() -> None:
    """RSNA 2019: -1000 was written as 3096; 40 stays 40."""
    assert hu([[3096, 40, 2000, 4095]], description(bits=12, intercept=0)) == [[-1000, 40, 2000, -1]]


def test_sixteen_bit_images_without_offset_whose_sign_was_lost() -> None:
    """Signed HU under a header that says unsigned: no HU is above 32767."""
    assert hu([[64512, 65535, 40, 4000]], description(intercept=0)) == [[-1024, -1, 40, 4000]]
    assert hu([[40000, 24]], description()) == [[38976, -1000]]
    assert hu([[65535, 0]], description(slope=80 / 65535, intercept=0)) == [[80, 0]]


def test_twelve_bit_images_with_an_offset_are_left_alone() -> None:
    """Intercept -1024 can hold air."""
    assert hu([[3096, 24]], description(bits=12)) == [[2072, -1000]]


def test_other_images_did_not_wrap_around() -> None:
    """Signed ones hold air, and 16 bits hold metal of 4000 HU."""
    assert hu([[-1500, 40]], description(bits=12, signed=True, intercept=0)) == [[AIR_HU, 40]]
    assert hu([[4000, 40]], description(intercept=0)) == [[4000, 40]]


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("written", [-1500, 64036])
def test_padding_reads_as_air_in_either_sign(written: int, signed: bool) -> None:
    """US and SS are mixed up in real files: 64036 is -1500 in 16 bits."""
    ds = description(signed=signed, intercept=0)
    ds.add_new("PixelPaddingValue", "US" if written > 0 else "SS", written)
    assert hu([[-1500 if signed else 64036, 40]], ds) == [[AIR_HU, 40]]


@pytest.mark.parametrize("stored", [524, 4024])
def test_padding_that_is_no_tissue_counts_everywhere(stored: int) -> None:
    """By what it means and not by how it is stored: -500 and 3000 HU, also in the middle of a head."""
    ds = description()
    ds.PixelPaddingValue = stored
    assert hu([[1060, 1060, 1060], [1060, stored, 1060], [1060, 1060, 1060]], ds)[1] == [36, AIR_HU, 36]


def test_a_range_of_padding_reads_as_air() -> None:
    """Pixel Padding Range Limit (0028,0121), in either order."""
    ds = description(intercept=0)
    ds.PixelPaddingValue, ds.PixelPaddingRangeLimit = 4000, 3000
    assert hu([[3000, 3500, 4000, 2999]], ds) == [[AIR_HU, AIR_HU, AIR_HU, 2999]]


def test_padding_that_equals_a_tissue_value_counts_only_where_it_joins_the_border() -> None:
    """Padding 0 with intercept 0 is water, too: a ventricle must not become air."""
    values = [[0, 9, 9, 9, 9], [9, 9, 9, 9, 0], [9, 9, 0, 9, 9], [0, 9, 9, 9, 9], [9, 9, 0, 9, 9]]
    ds = description(signed=True, intercept=0)
    ds.PixelPaddingValue = 0
    result = hu(values, ds)
    assert result[0][0] == result[1][4] == result[3][0] == result[4][2] == AIR_HU
    assert result[2][2] == 0


def test_values_far_below_air_are_air() -> None:
    """-3024 outside the reconstructed circle, without a padding attribute."""
    assert hu([[-3024, -1000]], description(signed=True, intercept=0)) == [[AIR_HU, -1000]]


@pytest.mark.parametrize(
    ("raw", "bits", "signed", "value"),
    [
        *((0xF028, 12, False, 0x028), (0x0FFF, 12, True, -1), (0xFFFF, 16, True, -1), (0xFFFF, 16, False, 65535)),
        *((0xFFFFFC00, 32, True, -1024), (3071, 32, False, 3071)),
    ],
)
def test_unused_high_bits_are_ignored_and_the_sign_is_extended(raw: int, bits: int, signed: bool, value: int) -> None:
    """Overlays lived in the high bits of old files; scripts write the 32-bit integers that they computed with."""
    array: npt.NDArray[np.uint32] = np.array([[raw]], dtype=np.uint32)
    assert stored_values(array, description(bits=bits, signed=signed)).tolist() == [[value]]
