"""Data sets in the layouts in which they are published, each read into a `Catalogue`. What each needs: docs/data.md."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ml.data.manifest import Catalogue
from ml.data.readers.bhsd import read_bhsd
from ml.data.readers.bhx import read_bhx
from ml.data.readers.cq500 import read_cq500
from ml.data.readers.ct_ich import read_ct_ich
from ml.data.readers.folder import read_folder
from ml.data.readers.instance import read_instance
from ml.data.readers.layout import Options
from ml.data.readers.rsna import read_rsna
from ml.data.readers.seg_cq500 import read_seg_cq500

READERS: dict[str, Callable[[Path, Options], Catalogue]] = {
    "rsna": read_rsna,
    "cq500": read_cq500,
    "seg-cq500": read_seg_cq500,
    "ct-ich": read_ct_ich,
    "bhsd": read_bhsd,
    "instance": read_instance,
    "bhx": read_bhx,
    "folder": read_folder,
}
"""By the name that `python -m ml prepare` takes."""

__all__ = ["READERS", "Options"]
