"""What finer labels say about coarser ones, and what they leave open."""

import numpy as np

from ml.labels import (
    ANY,
    BLEED,
    FINDINGS,
    IGNORE,
    UNKNOWN,
    Subtype,
    findings_of_slices,
    is_blood,
    prefer,
    union,
    unknown,
)


def findings(**known: int) -> np.ndarray:
    """Six findings, unknown where not named."""
    found = unknown()
    for name, value in known.items():
        found[FINDINGS.index(name)] = value
    return found


def test_voxels_say_what_their_slice_shows() -> None:
    """No blood; a subtype; blood of unknown subtype; partly unlabelled; wholly unlabelled."""
    pixels = np.zeros((5, 4, 4), dtype=np.uint8)
    pixels[1, 0, 0] = Subtype.SDH
    pixels[2, 0, 0], pixels[2, 1, 1] = BLEED, Subtype.IPH
    pixels[3, 0], pixels[3, 1] = IGNORE, Subtype.EDH
    pixels[4] = IGNORE
    found = findings_of_slices(pixels)
    assert found[0].tolist() == [0] * 6
    assert found[1].tolist() == [1, 0, 0, 0, 0, 1]
    assert found[2].tolist() == [1, UNKNOWN, 1, UNKNOWN, UNKNOWN, UNKNOWN]
    assert found[3].tolist() == [1, 1, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN]
    assert found[4].tolist() == [UNKNOWN] * 6
    assert is_blood(pixels).sum() == 1 + 2 + 4


def test_an_exam_is_positive_by_one_slice_and_negative_by_all() -> None:
    """One unknown slice leaves open whether there is blood."""
    slices = np.stack([findings(any=0, IPH=0), findings(any=1, IPH=0), findings(any=0, IPH=UNKNOWN)])
    whole = union(slices)
    assert whole[ANY] == 1
    assert whole[Subtype.IPH] == UNKNOWN
    assert union(slices[:1])[Subtype.IPH] == 0
    assert union(slices[:0]).tolist() == [UNKNOWN] * 6


def test_what_was_told_goes_before_what_follows() -> None:
    """A reader may call an exam positive whose slices nobody read."""
    assert prefer(findings(any=1), findings(any=0, SAH=0)).tolist() == findings(any=1, SAH=0).tolist()
