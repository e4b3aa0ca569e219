"""Orthanc as the PACS: an independent archive with C-STORE, REST and DICOMweb.

It takes HTTP from loopback only; its DICOM port cannot be bound to one address (Orthanc has no such option).
"""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pydicom
import requests
from dicomweb_client import DICOMwebClient

from tests.peers.presence import need, program
from tests.peers.process import HOST, Process, Server, free_port, listens, own_folder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pydicom import Dataset

NATIVE = "*"
"""The transfer syntax in which an instance is stored, whichever it is (PS3.18 8.7.3.5.2)."""


@dataclass(frozen=True)
class StoredSeries:
    """What Orthanc says of one series."""

    study_instance_uid: str
    series_instance_uid: str
    modality: str
    description: str
    sop_instance_uids: tuple[str, ...]


class Orthanc(Server):
    """One Orthanc with a storage folder of its own that outlives `stop` and `restart`."""

    name = "Orthanc"

    def __init__(
        self,
        *,
        ae_title: str = "ORTHANC",
        modalities: Mapping[str, tuple[str, int]] | None = None,
        drop: Sequence[str] = (),
        options: Mapping[str, object] | None = None,
        dicom_port: int | None = None,
        http_port: int | None = None,
    ) -> None:
        """What it is to do.

        modalities: AE title -> (host, port) of the peers that it may send to.
        drop: SOP Class UIDs that are answered with 0x0000 and not kept: success without storage. (Orthanc 1.10 cannot
            refuse a class it knows; `StoreScp` can, by `accepts` and by `out_of_space`.)
        options: keys of Orthanc's configuration, over the defaults below.
        """
        need("orthanc")
        self.ae_title, self.host = ae_title, HOST
        self.dicom_port, self.http_port = dicom_port or free_port(), http_port or free_port()
        self.url = f"http://{HOST}:{self.http_port}"
        self.dicomweb_url = f"{self.url}/dicom-web"
        home = own_folder("orthanc")
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy to loopback
        configuration: dict[str, object] = {
            "Name": ae_title,
            "StorageDirectory": str(home / "storage"),
            "IndexDirectory": str(home / "storage"),
            "DicomAet": ae_title,
            "DicomPort": self.dicom_port,
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomModalities": {name: [name, *place] for name, place in (modalities or {}).items()},
            "Plugins": [str(program("libOrthancDicomWeb.so"))],
            "DicomWeb": {"Root": "/dicom-web/"},
            "LuaScripts": [str(_filter(home, drop))] if drop else [],
            "StableAge": 1,
            **(options or {}),
        }
        (home / "orthanc.json").write_text(json.dumps(configuration, indent=1))
        self.process = Process([program("Orthanc"), home / "orthanc.json"], name="orthanc", folder=home)

    def answers(self) -> bool:
        """See Server."""
        try:
            return self._session.get(f"{self.url}/system", timeout=2.0).ok and listens(self.dicom_port)
        except requests.ConnectionError:
            return False

    def rest(self, method: str, path: str, **arguments: Any) -> requests.Response:
        """One REST request, e.g. `rest("GET", "/statistics")`; an HTTP error is raised."""
        response = self._session.request(method, f"{self.url}{path}", timeout=120.0, **arguments)
        response.raise_for_status()
        return response

    def studies(self) -> list[str]:
        """StudyInstanceUID of every study."""
        return sorted(study["MainDicomTags"]["StudyInstanceUID"] for study in self._expanded("studies"))

    def series(self, study_uid: str | None = None, *, modality: str | None = None) -> list[StoredSeries]:
        """Every series, or those of a study and of a modality ("CT", "SEG", "SR"), ordered by their UID."""
        study_of = {study["ID"]: study["MainDicomTags"]["StudyInstanceUID"] for study in self._expanded("studies")}
        uid_of = {one["ID"]: one["MainDicomTags"]["SOPInstanceUID"] for one in self._expanded("instances")}
        found = [
            StoredSeries(
                study_instance_uid=study_of[one["ParentStudy"]],
                series_instance_uid=one["MainDicomTags"]["SeriesInstanceUID"],
                modality=one["MainDicomTags"].get("Modality", ""),
                description=one["MainDicomTags"].get("SeriesDescription", ""),
                sop_instance_uids=tuple(
                    sorted(uid_of[instance] for instance in one["Instances"] if instance in uid_of)
                ),
            )
            for one in self._expanded("series")
            if one["ParentStudy"] in study_of
        ]
        wanted = [
            one for one in found if study_uid in {None, one.study_instance_uid} and modality in {None, one.modality}
        ]
        return sorted(wanted, key=lambda one: one.series_instance_uid)

    def instances(self, study_uid: str | None = None, *, modality: str | None = None) -> list[str]:
        """SOP Instance UIDs, of everything or of a study and of a modality."""
        return sorted(uid for one in self.series(study_uid, modality=modality) for uid in one.sop_instance_uids)

    def dicomweb(self) -> DICOMwebClient:
        """A DICOMweb client of its server (QIDO-RS, WADO-RS, STOW-RS)."""
        return DICOMwebClient(url=self.dicomweb_url, session=self._session)

    def fetch(self, study_uid: str, *, modality: str | None = None) -> list[Dataset]:
        """A study's instances (of one modality) as WADO-RS gives them, in the transfer syntax they are stored in."""
        client = self.dicomweb()
        return [
            dataset
            for one in self.series(study_uid, modality=modality)
            for dataset in client.retrieve_series(
                one.study_instance_uid, one.series_instance_uid, media_types=(("application/dicom", NATIVE),)
            )
        ]

    def file(self, sop_instance_uid: str) -> bytes:
        """The bytes of an instance's file as Orthanc stores it."""
        found = self.rest("POST", "/tools/lookup", data=sop_instance_uid).json()
        (instance,) = (one for one in found if one["Type"] == "Instance")
        return self.rest("GET", f"/instances/{instance['ID']}/file").content

    def dataset(self, sop_instance_uid: str) -> Dataset:
        """`file`, read."""
        return pydicom.dcmread(io.BytesIO(self.file(sop_instance_uid)))

    def upload(self, path: Path) -> None:
        """Puts a file in by REST, without DIMSE."""
        self.rest("POST", "/instances", data=path.read_bytes())

    def add_modality(self, ae_title: str, port: int, *, host: str = HOST) -> None:
        """Makes a peer known that `send` and `echo` can name."""
        self.rest("PUT", f"/modalities/{ae_title}", json={"AET": ae_title, "Host": host, "Port": port})

    def echo(self, ae_title: str) -> None:
        """C-ECHO to a known peer."""
        self.rest("POST", f"/modalities/{ae_title}/echo", json={"Timeout": 10})

    def send(self, study_uid: str, ae_title: str) -> None:
        """C-STORE of a study to a known peer, as a PACS auto-routes."""
        found = self.rest("POST", "/tools/lookup", data=study_uid).json()
        identifiers = [one["ID"] for one in found if one["Type"] == "Study"]
        self.rest("POST", f"/modalities/{ae_title}/store", json={"Resources": identifiers, "Synchronous": True})

    def delete(self, sop_instance_uid: str) -> None:
        """Deletes one instance."""
        (found,) = self.rest("POST", "/tools/lookup", data=sop_instance_uid).json()
        self.rest("DELETE", f"/instances/{found['ID']}")

    def ask_commitment(self, ae_title: str, sop_classes: Mapping[str, str]) -> str:
        """Asks a known peer to commit to instances (UID -> class); the id under which `commitment` is kept."""
        wanted = [[sop_class, uid] for uid, sop_class in sop_classes.items()]
        asked = self.rest("POST", f"/modalities/{ae_title}/storage-commitment", json={"DicomInstances": wanted})
        return str(asked.json()["ID"])

    def commitment(self, transaction: str) -> dict[str, Any]:
        """What it knows of a commitment that it asked for: Status Pending, Success or Failure."""
        found: dict[str, Any] = self.rest("GET", f"/storage-commitment/{transaction}").json()
        return found

    def wipe(self) -> None:
        """Deletes every patient."""
        for identifier in self.rest("GET", "/patients").json():
            self.rest("DELETE", f"/patients/{identifier}")

    def _expanded(self, level: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.rest("GET", f"/{level}?expand").json()
        return found


def _filter(home: Path, drop: Sequence[str]) -> Path:
    """A Lua script that keeps instances of some SOP classes out of the storage."""
    table = ", ".join(f'["{sop_class}"] = true' for sop_class in drop)
    script = home / "filter.lua"
    script.write_text(
        f"local drop = {{ {table} }}\n"
        "function ReceivedInstanceFilter(dicom, origin, info)\n"
        "  return not drop[dicom.SOPClassUID]\n"
        "end\n"
    )
    return script
