"""The bundles on disk, read without loading any weights: what the CLI lists and the doctor looks for."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dicom_node.errors import NotFound

DEFAULT = "default"


def bundles(in_use: str) -> list[dict[str, Any]]:
    """Every shipped bundle, and the one in use if it lies elsewhere."""
    chosen = _folder(in_use)
    folders = {path.parent for path in shipped_dir().glob("*/bundle.json")}
    if (chosen / "bundle.json").exists():
        folders.add(chosen)
    return [_read(folder) | {"in_use": folder.resolve() == chosen.resolve()} for folder in sorted(folders)]


def find(name: str) -> dict[str, Any]:
    """The bundle of that name or path. Raises NotFound."""
    folder = _folder(name)
    if not (folder / "bundle.json").exists():
        raise NotFound(f"worker.bundle: no bundle.json in {folder}; see `dicom-node bundles`")
    return _read(folder)


def shipped_dir() -> Path:
    """Where the bundles that come with `ml` lie."""
    spec = find_spec("ml")
    if spec is None or spec.origin is None:
        raise NotFound("the `ml` package is not installed beside dicom_node")
    return Path(spec.origin).parent / "bundles"


def _folder(name: str) -> Path:
    """A shipped bundle's folder by name ("default" is named in bundles/DEFAULT), or the path itself."""
    if name == DEFAULT:
        try:
            name = (shipped_dir() / "DEFAULT").read_text(encoding="utf-8").strip()
        except OSError as error:
            raise NotFound(f"no default bundle is shipped: {shipped_dir() / 'DEFAULT'} cannot be read") from error
    shipped = shipped_dir() / name
    return shipped if shipped.exists() else Path(name)


def _read(folder: Path) -> dict[str, Any]:
    try:
        described = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
        metrics_file = folder / "metrics.json"
        metrics = json.loads(metrics_file.read_text(encoding="utf-8")) if metrics_file.exists() else {}
    except (OSError, ValueError) as error:
        raise NotFound(f"the bundle in {folder} cannot be read: {type(error).__name__}") from error
    if not isinstance(described, dict):
        raise NotFound(f"the bundle in {folder} cannot be read: bundle.json holds no object")
    named, measured = _object(described.get("config")), _object(_object(metrics).get("any"))
    return {
        "name": named.get("name", folder.name),
        "version": named.get("version", ""),
        "digest": str(described.get("digest", ""))[:12],
        "folder": str(folder),
        "exam_threshold": _object(named.get("operating_point")).get("exam_score"),
        "dsc": measured.get("mean_dsc_over_1_ml"),
        "exam_auc": measured.get("exam_auc"),
    }


def _object(value: Any) -> dict[str, Any]:
    """A JSON object; an empty one where there is something else, or nothing."""
    return value if isinstance(value, dict) else {}
