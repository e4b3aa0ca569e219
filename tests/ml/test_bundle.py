"""A bundle is what was written, or it is refused."""

import json
from pathlib import Path

import pytest
import torch
from pydicom.uid import UID

from ml.bundle import BUNDLES, SIZE_LIMIT_BYTES, Bundle, BundleConfig, load_bundle, write_bundle
from ml.errors import BundleError
from ml.training.compact import TRAINED_ON


@pytest.fixture
def folder(tmp_path: Path, tiny_bundle: Bundle) -> Path:
    """A bundle on disk."""
    write_bundle(tmp_path / "tiny", tiny_bundle.config, weights=tiny_bundle.weights, metrics={"n": 1}, card="# tiny\n")
    return tmp_path / "tiny"


def test_a_bundle_comes_back_as_written(folder: Path, tiny_bundle: Bundle, tiny_config: BundleConfig) -> None:
    """Configuration, weights and files for people."""
    loaded = load_bundle(folder)
    assert loaded.config == tiny_config
    assert all(torch.equal(loaded.weights[name], tensor) for name, tensor in tiny_bundle.weights.items())
    assert not loaded.make_network().training
    assert {path.name for path in folder.iterdir()} == {"bundle.json", "weights.safetensors", "metrics.json", "CARD.md"}


def test_the_device_uid_is_a_valid_uid_that_follows_the_digest(
    folder: Path, tmp_path: Path, tiny_bundle: Bundle
) -> None:
    """Same content, same identity; one changed weight, another one."""
    identity = load_bundle(folder).identity
    assert UID(identity.device_uid).is_valid
    assert identity.device_uid.startswith("2.25.")
    again = write_bundle(tmp_path / "b", tiny_bundle.config, weights=tiny_bundle.weights, metrics={}, card="")
    assert again.identity == identity
    changed = {name: tensor + 1 for name, tensor in tiny_bundle.weights.items()}
    other = write_bundle(tmp_path / "c", tiny_bundle.config, weights=changed, metrics={}, card="").identity
    assert other.digest != identity.digest
    assert other.device_uid != identity.device_uid


def change_json(folder: Path, **changes: object) -> None:
    """Edit bundle.json by hand."""
    path = folder / "bundle.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_changed_and_damaged_files_are_refused(folder: Path) -> None:
    """One flipped byte in the weights is enough."""
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(BundleError, match="digest"):
        load_bundle(folder)


def test_an_edited_operating_point_is_refused(folder: Path) -> None:
    """Thresholds belong to the identity of a bundle."""
    config = json.loads((folder / "bundle.json").read_text())["config"]
    config["operating_point"]["pixel_prob"] = 0.1
    change_json(folder, config=config)
    with pytest.raises(BundleError, match="digest"):
        load_bundle(folder)


@pytest.mark.parametrize(
    "changes",
    [{"format_version": 0}, {"format_version": 1}, {"format_version": 3}, {"format": "other"}, {"format": None}],
)
def test_other_formats_are_refused_by_name(folder: Path, changes: dict[str, object]) -> None:
    """Old and future ones; the sentence says which format this program reads."""
    change_json(folder, **changes)
    with pytest.raises(BundleError, match="reads ich-bundle 2"):
        load_bundle(folder)


@pytest.mark.parametrize("name", ["bundle.json", "weights.safetensors"])
def test_missing_and_empty_files_are_refused(folder: Path, name: str) -> None:
    """By name; never a stack trace."""
    (folder / name).write_bytes(b"")
    with pytest.raises(BundleError):
        load_bundle(folder)
    (folder / name).unlink()
    with pytest.raises(BundleError, match=name):
        load_bundle(folder)


def test_weights_that_do_not_fit_are_refused(tiny_bundle: Bundle) -> None:
    """A tensor is missing."""
    weights = dict(tiny_bundle.weights)
    weights.pop("pixel_score.weight")
    with pytest.raises(BundleError, match="do not fit"):
        Bundle(tiny_bundle.config, tiny_bundle.identity, weights).make_network()


def test_the_shipped_bundle_is_small_and_says_what_it_is() -> None:
    """16 MB at most, a card, and its network loads."""
    bundle = load_bundle("default")
    bundle.make_network()
    folder = BUNDLES / (BUNDLES / "DEFAULT").read_text().strip()
    files = list(folder.iterdir())
    assert sum(path.stat().st_size for path in files) <= SIZE_LIMIT_BYTES
    card = (folder / "CARD.md").read_text()
    assert f"Trained on {TRAINED_ON[bundle.config.provenance.data]}" in card
    assert "real heads without hemorrhage" in card
    assert "Research use only" in card
