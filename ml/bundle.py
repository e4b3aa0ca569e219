"""A bundle: weights, configuration, metrics and identity of a network in one folder.

    bundle.json           what this file describes, and the digest over both files
    weights.safetensors   the network's tensors
    metrics.json          figures measured when it was made
    CARD.md               for people: what it is, what it was trained on, what it must not be used for

The digest is SHA-256 over bundle.json (without the digest itself) and weights.safetensors. It is checked at every load.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError

from ml.config import Calibration, OperatingPoint, Preprocessing, Provenance
from ml.errors import BundleError
from ml.files import write_atomically
from ml.networks.patchfcn import PatchFcn, PatchFcnConfig
from ml.prediction import BundleIdentity

FORMAT = "ich-bundle"
FORMAT_VERSION = 2
BUNDLES = Path(__file__).parent / "bundles"
SIZE_LIMIT_BYTES = 16 * 2**20
"""Shipped bundles stay below (tests/ml/test_bundle.py); others may be larger."""
_DEVICE_NAMESPACE = uuid.UUID("6f1d7d0c-7a3e-5c51-9d0e-3d7c1c1f2b60")


@dataclass(frozen=True)
class BundleConfig:
    """Everything but the weights."""

    name: str
    version: str
    network: PatchFcnConfig
    preprocessing: Preprocessing
    operating_point: OperatingPoint
    calibration: Calibration
    provenance: Provenance


@dataclass(frozen=True, eq=False)
class Bundle:
    """A loaded bundle: ready to make its network."""

    config: BundleConfig
    identity: BundleIdentity
    weights: dict[str, torch.Tensor]

    def make_network(self) -> PatchFcn:
        """The network with its weights, in evaluation mode; raises BundleError if they do not fit."""
        network = PatchFcn(self.config.network)
        try:
            network.load_state_dict(self.weights)
        except RuntimeError as error:
            raise BundleError(f"the weights of bundle {self.config.name} do not fit its network") from error
        return network.eval()

    def calling_from(self, exam_score: float) -> Bundle:
        """The same bundle at another operating point: exams are positive from that score."""
        point = replace(self.config.operating_point, exam_score=exam_score)
        return replace(self, config=replace(self.config, operating_point=point))


_CONFIG = TypeAdapter(BundleConfig)


def load_bundle(path: str | Path) -> Bundle:
    """The bundle in a folder, or a shipped one by its name; "default" is named in ml/bundles/DEFAULT.

    Raises:
        BundleError: missing, damaged, of another format or changed since it was made.
    """
    folder = _folder(str(path))
    document, weights_bytes = _read(folder)
    if document.get("format") != FORMAT or document.get("format_version") != FORMAT_VERSION:
        found = f"{document.get('format')} {document.get('format_version')}"
        wanted = f"{FORMAT} {FORMAT_VERSION}"
        raise BundleError(f"{folder.name} is of format {found}; this program reads {wanted}: make it anew")
    digest = _digest(document, weights_bytes)
    if digest != document.get("digest"):
        raise BundleError(f"{folder.name} was changed or damaged: its digest is not the recorded one")
    try:
        config = _CONFIG.validate_python(document.get("config"))
        weights = safetensors.torch.load(weights_bytes)
    except (ValidationError, SafetensorError) as error:
        raise BundleError(f"{folder.name} is not a valid bundle: {error}") from error
    return Bundle(config, identify(config, digest), weights)


def _folder(name: str) -> Path:
    if name == "default":
        name = (BUNDLES / "DEFAULT").read_text(encoding="utf-8").strip()
    return BUNDLES / name if (BUNDLES / name / "bundle.json").exists() else Path(name)


def write_bundle(
    folder: Path, config: BundleConfig, *, weights: dict[str, torch.Tensor], metrics: dict[str, Any], card: str
) -> Bundle:
    """Write a bundle; bundle.json comes last, so a half-written folder is no bundle. Returns it as loaded."""
    folder.mkdir(parents=True, exist_ok=True)
    weights_bytes = safetensors.torch.save({name: tensor.contiguous() for name, tensor in sorted(weights.items())})
    document = {"format": FORMAT, "format_version": FORMAT_VERSION, "config": asdict(config)}
    document = json.loads(json.dumps(document))
    document["digest"] = _digest(document, weights_bytes)
    write_atomically(folder / "weights.safetensors", weights_bytes)
    write_atomically(folder / "metrics.json", (json.dumps(metrics, indent=2) + "\n").encode())
    write_atomically(folder / "CARD.md", card.encode())
    write_atomically(folder / "bundle.json", (json.dumps(document, indent=2) + "\n").encode())
    return load_bundle(folder)


def identify(config: BundleConfig, digest: str) -> BundleIdentity:
    """The identity of a digest; the device UID is derived from it (PS3.5 B.2: 2.25 and a UUID as one number)."""
    number = uuid.uuid5(_DEVICE_NAMESPACE, digest).int
    return BundleIdentity(name=config.name, version=config.version, digest=digest, device_uid=f"2.25.{number}")


def _read(folder: Path) -> tuple[dict[str, Any], bytes]:
    try:
        document = json.loads((folder / "bundle.json").read_bytes())
        weights_bytes = (folder / "weights.safetensors").read_bytes()
    except FileNotFoundError as error:
        raise BundleError(f"{folder.name} is not a bundle: {Path(str(error.filename)).name} is missing") from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{folder.name} cannot be read: {type(error).__name__}") from error
    if not isinstance(document, dict):
        raise BundleError(f"{folder.name} is not a bundle: bundle.json holds no object")
    return document, weights_bytes


def _digest(document: dict[str, Any], weights_bytes: bytes) -> str:
    """SHA-256 (hex) over the canonical JSON without its digest, and the weights."""
    rest = {key: value for key, value in document.items() if key != "digest"}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()
    sha256 = hashlib.sha256(hashlib.sha256(canonical).digest())
    sha256.update(hashlib.sha256(weights_bytes).digest())
    return sha256.hexdigest()
