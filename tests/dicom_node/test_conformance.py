"""The conformance statement: true to the configuration, and docs/conformance.md is that of the defaults."""

from __future__ import annotations

import re
from pathlib import Path

from pydicom.uid import UID
from pynetdicom import build_context
from pynetdicom.pdu_primitives import A_ASSOCIATE

from dicom_node.config import Config, parse_config
from dicom_node.conformance import ACTION_ANSWERS, NOT_IN_PYDICOM, REPORT_ANSWERS, STORE_ANSWERS, statement
from dicom_node.negotiation import VERIFICATION, AssociateRequest, accept
from dicom_node.statuses import Status

DOCUMENT = Path(__file__).parents[2] / "docs" / "conformance.md"


def of(text: str) -> str:
    """The statement of a config."""
    return statement(parse_config(text, source="test", base=Path("/nowhere")))


def test_the_document_is_that_of_the_defaults() -> None:
    """`dicom-node conformance > docs/conformance.md` in a fresh clone."""
    assert DOCUMENT.read_text(encoding="utf-8").strip() == of("").strip()


def test_it_names_every_class_syntax_and_status() -> None:
    """And nothing by a bare number."""
    text, listener = of(""), Config().listener
    for uid in (*listener.sop_classes, *listener.transfer_syntaxes):
        assert f"| {NOT_IN_PYDICOM.get(uid, UID(uid).name)} | {uid} |" in text
        assert f"| {uid} | {uid} |" not in text
    assert {*STORE_ANSWERS, *ACTION_ANSWERS, *REPORT_ANSWERS} == set(Status)
    for status in Status:
        assert f"| 0x{status:04X} |" in text


def test_it_says_which_transfer_syntaxes_verification_has() -> None:
    """What is negotiated: those of storage are more."""
    offered = [build_context(VERIFICATION, [uid]) for uid in Config().listener.transfer_syntaxes]
    for number, context in enumerate(offered):
        context.context_id = 2 * number + 1
    request = AssociateRequest("A", "B", 1, "", (), 0, primitive=A_ASSOCIATE())
    request.primitive.presentation_context_definition_list = offered
    agreed = accept(request, sop_classes=(), transfer_syntaxes=Config().listener.transfer_syntaxes, max_pdu_bytes=0)
    named = re.findall(r"for Verification and\nStorage Commitment only (.*) and (.*) are\.", of(""))
    assert {UID(one.transfer_syntax_uid).name for one in agreed.contexts.values()} == set(*named)


def test_it_says_what_is_deleted() -> None:
    """What it committed to never is."""
    assert "never deletes what it has committed to; nor, as configured, any other image." in of("")
    told = of("[retention]\nimages_days = 30\nmake_room_below_bytes = 5000000000\n")
    assert "other instances are deleted, once their results have arrived, 30 days after" in told
    assert "instance came or below 5.0 GB of free space." in told


def test_it_follows_the_configuration() -> None:
    """Peers, destinations, TLS, times and what results are made."""
    text = of(
        '[node]\nae_title = "BRAIN"\n[listener]\nport = 4242\nallow_loopback = false\ncheck_called_ae_title = false\n'
        'max_pdu_bytes = 0\nsop_classes = ["1.2.840.10008.5.1.4.1.1.2"]\n'
        '[listener.tls]\ncertificate = "c"\nca_certificates = "a"\n'
        '[[listener.peer]]\nae_title = "PACS"\naddresses = ["192.0.2.0/24"]\n'
        'host = "pacs"\nport = 104\n'
        "[results]\nsend_seg_when_negative = false\nsend_sr_when_rejected = false\n"
        "[delivery]\ngive_up_after_s = 7200.0\n"
        '[[delivery.destination]]\nname = "p"\nae_title = "A"\nhost = "h"\nport = 1\ntls.certificate = "c"\n'
        "commitment = true\n"
    )
    for part in (
        "`BRAIN`, TCP port 4242",
        "`PACS` from 192.0.2.0/24 (8 at a time). The called AE title is not checked",
        "Maximum PDU unlimited",
        "| p | A at h:1 | yes | standard |",
        "| p | yes | yes |",
        "| PACS | pacs:104 |",
        "Listener: TLS 1.2 or later",
        "A negative study gets an SR; a rejected one\ngets nothing",
        "for 2 h",
    ):
        assert part in text, part
    web = of(
        '[[results.profile]]\nname = "new"\nseg = ["seg-labelmap"]\ntransfer_syntax = "1.2.840.10008.1.2.5"\n'
        '[[delivery.destination]]\nname = "w"\nurl = "https://h/x"\nprofile = "new"\n'
    )
    assert "| w | https://h/x | yes | new |" in web
    assert "numbered from 9001 on" in web
    label_map = "Label Map Segmentation Storage | 1.2.840.10008.5.1.4.1.1.66.7"
    assert f"| seg-labelmap | {label_map} | RLE Lossless |" in web
    assert "MR Image Storage" not in text
    bands = of(
        '[[results.profile]]\nname = "own"\nfirst_series_number = 501\n'
        + "".join(
            f'[[delivery.destination]]\nname = "{name}"\nurl = "https://h/x"\nprofile = "{name}"\n'
            for name in ("own", "viewer")
        )
    )
    assert "numbered from 501 or 9001 on" in bands
    many = of(
        '[listener]\nport = 104\nmax_associations = 10\nacceptor_processes = 3\n[[listener.peer]]\nae_title = "CT"\n'
    )
    assert "at most 30 associations at a time" in many, "each process counts its own"
    assert "`CT` from any address (24 at a time)" in many
    assert "Who may associate: nobody" in of("[listener]\nallow_loopback = false")
