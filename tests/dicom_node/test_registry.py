"""Bundles as the CLI lists them, read without any weights."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dicom_node import registry
from dicom_node.errors import NotFound
from ml.bundle import load_bundle


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of shipped bundles: compact (the default) and large."""
    folder = tmp_path / "bundles"
    for name in ("compact", "large"):
        make(folder / name, name)
    (folder / "DEFAULT").write_text("compact\n")
    monkeypatch.setattr(registry, "shipped_dir", lambda: folder)
    return folder


def make(folder: Path, name: str) -> None:
    """A bundle's descriptions."""
    folder.mkdir(parents=True)
    described = {"config": {"name": name, "version": "1.0"}, "digest": "ab" * 32}
    (folder / "bundle.json").write_text(json.dumps(described))
    (folder / "metrics.json").write_text(json.dumps({"any": {"mean_dsc_over_1_ml": 0.7, "exam_auc": 0.9}}))


def test_the_bundle_in_use_is_marked(shipped: Path) -> None:
    """By its name, as the default, or by its folder."""
    for name in ("default", "compact", str(shipped / "compact")):
        assert {b["name"]: b["in_use"] for b in registry.bundles(name)} == {"compact": True, "large": False}


def test_a_bundle_of_ones_own_is_listed(shipped: Path, tmp_path: Path) -> None:
    """It lies elsewhere."""
    make(tmp_path / "mine", "mine")
    listed = registry.bundles(str(tmp_path / "mine"))
    assert [(b["name"], b["in_use"]) for b in listed] == [("compact", False), ("large", False), ("mine", True)]
    assert listed[2]["digest"] == "ab" * 6


def test_what_cannot_be_used_is_said(shipped: Path, tmp_path: Path) -> None:
    """Not there, broken, or no default shipped."""
    with pytest.raises(NotFound, match=r"no bundle\.json in nothing"):
        registry.find("nothing")
    (shipped / "large" / "bundle.json").write_text("{")
    with pytest.raises(NotFound, match="cannot be read: JSONDecodeError"):
        registry.find("large")
    (shipped / "large" / "bundle.json").write_text("[]")
    with pytest.raises(NotFound, match="holds no object"):
        registry.find("large")
    (shipped / "DEFAULT").unlink()
    with pytest.raises(NotFound, match="no default bundle is shipped"):
        registry.find("default")


def test_a_bundle_that_tells_little_is_listed_with_what_it_tells(shipped: Path) -> None:
    """JSON of another shape than ours is no reason for a traceback, least of all the doctor's."""
    (shipped / "large" / "bundle.json").write_text('{"config": null}')
    (shipped / "large" / "metrics.json").write_text('{"any": null}')
    row = registry.find("large")
    assert (row["name"], row["version"], row["dsc"], row["exam_auc"]) == ("large", "", None, None)


def test_the_shipped_folder_is_that_of_ml() -> None:
    """Beside the package, wherever it is installed."""
    assert registry.shipped_dir().parent.name == "ml"


def test_the_node_and_the_network_mean_the_same_default_bundle() -> None:
    """`dicom-node bundles` shows what a worker loads."""
    shown = registry.find("default")
    loaded = load_bundle("default")
    assert (shown["name"], shown["version"]) == (loaded.identity.name, loaded.identity.version)
    assert loaded.identity.digest.startswith(shown["digest"])
    assert [bundle["in_use"] for bundle in registry.bundles("default")].count(True) == 1
    assert load_bundle(Path(shown["folder"]).name).identity == loaded.identity
