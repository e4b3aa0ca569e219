"""Each piece of the harness against reality: the peers start, do their work, lose nothing on a restart, and end."""

from __future__ import annotations

import sys
from pathlib import Path

import kombu
import kombu.simple
import numpy as np
import psycopg
import pytest
import sqlalchemy
from pydicom import uid

from tests.dicom_factory import SYNTAXES, ct_series
from tests.peers import (
    Orthanc,
    PeerError,
    PostgreSQL,
    RabbitMQ,
    Redis,
    StoreScp,
    dcentvfy,
    dciodvfy,
    dcmsend,
    echoscu,
    presence,
    run_process,
    storescu,
    wait_until,
)
from tests.peers.process import LIVE

pytest_plugins = ["pytester"]


def publish(url: str, text: str) -> None:
    """Puts one persistent message into a durable queue."""
    with kombu.Connection(url) as connection, connection.SimpleQueue("ids") as queue:
        queue.put(text)


def consume(url: str, *, timeout_s: float = 10.0) -> str:
    """Takes one message out of it."""
    with kombu.Connection(url) as connection, connection.SimpleQueue("ids") as queue:
        message = queue.get(timeout=timeout_s)
        message.ack()
        return str(message.payload)


# --- processes --------------------------------------------------------------------------------------------------------
def test_a_process_is_waited_for_by_its_output_and_stopped_by_its_group(tmp_path: Path) -> None:
    """The log holds stdout and stderr; a child of the child ends with it."""
    script = "import subprocess; c = subprocess.Popen(['sleep', '600']); print('child', c.pid, flush=True); c.wait()"
    with run_process([sys.executable, "-c", script], name="parent", folder=tmp_path) as parent:
        child = int(parent.wait_for_line(r"^child \d+").split()[1])
        assert parent.running
        assert parent in LIVE
    assert parent.returncode == -15
    assert parent not in LIVE
    wait_until(lambda: not _alive(child), what="the child has ended")


def _alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123  # procfs
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_process_that_dies_early_is_reported_with_its_log(tmp_path: Path) -> None:
    """No waiting for the time-out."""
    process = run_process([sys.executable, "-c", "raise SystemExit('no such key')"], name="node", folder=tmp_path)
    with pytest.raises(PeerError, match=r"(?s)node ended with 1 .*no such key"):
        process.wait_for_line("ready")
    assert process.wait() == 1


def test_a_condition_that_never_comes_true_names_what_was_waited_for() -> None:
    """The message says what, not where."""
    with pytest.raises(PeerError, match=r"not within 0\.05 s: the moon"):
        wait_until(lambda: False, what="the moon", timeout_s=0.05)


# --- which programs ---------------------------------------------------------------------------------------------------
@pytest.mark.peer("dcmtk")
def test_the_storescu_of_pynetdicom_is_not_taken_for_dcmtks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in an activated environment, where it comes first on the path."""
    own = Path(sys.executable).parent
    assert (own / "storescu").exists()
    monkeypatch.setenv("PATH", str(own), prepend=":")
    found = presence.find("storescu")
    assert found is not None
    assert found.parent != own


# --- missing peers ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("ci", "outcome"), [("", "skipped"), ("true", "failed")])
def test_a_missing_peer_skips_by_name_at_home_and_fails_in_ci(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, ci: str, outcome: str
) -> None:
    """The list at the end names the peer and the test."""
    monkeypatch.setenv("CI", ci)
    monkeypatch.setitem(presence.PROGRAMS, "orthanc", ("no-such-program",))
    pytester.makeconftest("from tests.conftest import pytest_runtest_setup, pytest_terminal_summary")
    pytester.makeini("[pytest]\nmarkers = peer(name)")
    pytester.makepyfile("import pytest\n@pytest.mark.peer('orthanc')\ndef test_pacs(): pass")
    result = pytester.runpytest_inprocess()
    if outcome == "skipped":
        result.assert_outcomes(skipped=1)
        result.stdout.fnmatch_lines(
            ["*Peers that could not be had*", "orthanc (no no-such-program*1 skipped", "*test_pacs"]
        )
    else:
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines(["*Peer missing: orthanc*"])


# --- DCMTK ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.keyword)
def test_storescu_sends_in_the_transfer_syntax_of_the_files(
    tmp_path: Path, storescp: StoreScp, syntax: uid.UID
) -> None:
    """storescp keeps the pixels as they were sent."""
    sent = ct_series(tmp_path, slices=2, transfer_syntax=syntax)
    storescu([tmp_path], storescp.port, calling="SCANNER", called="STORESCP", transfer_syntax=syntax)
    received = {dataset.SOPInstanceUID: dataset for dataset in storescp.datasets()}
    assert {dataset.file_meta.TransferSyntaxUID for dataset in received.values()} == {syntax}
    for dataset in sent:
        assert np.array_equal(received[dataset.SOPInstanceUID].pixel_array, dataset.pixel_array)


def test_dcmsend_sends_what_storescu_cannot_propose(tmp_path: Path) -> None:
    """JPEG Lossless .57 among others, in one call."""
    ct_series(tmp_path / "a", slices=1, transfer_syntax=uid.JPEGLossless)
    ct_series(tmp_path / "b", slices=1, transfer_syntax=uid.JPEG2000Lossless)
    with StoreScp(accepts=[uid.CTImageStorage]) as receiver:
        dcmsend([tmp_path], receiver.port)
        syntaxes = {dataset.file_meta.TransferSyntaxUID for dataset in receiver.datasets()}
    assert syntaxes == {uid.JPEGLossless, uid.JPEG2000Lossless}


@pytest.mark.peer("dcmtk")
def test_a_receiver_that_refuses_makes_the_senders_fail(tmp_path: Path) -> None:
    """The exit status of a DCMTK tool is looked at: association refused, no presentation context, 0xA700."""
    ct_series(tmp_path, slices=1)
    with StoreScp(options=["--refuse"]) as refusing:
        assert echoscu(refusing.port, check=False).returncode != 0
        with pytest.raises(AssertionError, match="storescu ended with"):
            storescu([tmp_path], refusing.port)
    no_context = pytest.raises(AssertionError, match="No Acceptable Presentation Contexts")
    with StoreScp(accepts=[uid.MRImageStorage]) as choosy, no_context:
        storescu([tmp_path], choosy.port)
    with StoreScp() as receiver:
        with receiver.out_of_space(), pytest.raises(AssertionError, match=r"(?i)OutOfResources|A700"):
            storescu([tmp_path], receiver.port)
        storescu([tmp_path], receiver.port)
        assert len(receiver.files()) == 1


# --- Orthanc ----------------------------------------------------------------------------------------------------------
def test_a_ct_sent_by_c_store_comes_back_over_dicomweb(tmp_path: Path, orthanc: Orthanc) -> None:
    """Every pixel, the umlaut in the name, and what REST says of the series."""
    sent = ct_series(tmp_path, slices=3, patient_name="Müller^Jörg", description="Head 5mm H30")
    study_uid = str(sent[0].StudyInstanceUID)
    storescu([tmp_path], orthanc.dicom_port, called="ORTHANC")
    fetched = {dataset.SOPInstanceUID: dataset for dataset in orthanc.fetch(study_uid)}
    assert orthanc.studies() == [study_uid]
    assert [(one.modality, one.description) for one in orthanc.series(study_uid)] == [("CT", "Head 5mm H30")]
    assert orthanc.instances(study_uid, modality="SEG") == []
    assert sorted(fetched) == orthanc.instances(study_uid, modality="CT")
    for dataset in sent:
        assert np.array_equal(fetched[dataset.SOPInstanceUID].pixel_array, dataset.pixel_array)
        assert fetched[dataset.SOPInstanceUID].PatientName == "Müller^Jörg"
        assert orthanc.dataset(dataset.SOPInstanceUID).PatientID == dataset.PatientID


def test_a_compressed_ct_comes_back_over_dicomweb_as_it_was_sent(tmp_path: Path, orthanc: Orthanc) -> None:
    """No transcoding on the way."""
    (sent,) = ct_series(tmp_path, slices=1, transfer_syntax=uid.JPEGLSLossless)
    storescu([tmp_path], orthanc.dicom_port, transfer_syntax=uid.JPEGLSLossless)
    (fetched,) = orthanc.fetch(str(sent.StudyInstanceUID))
    assert fetched.file_meta.TransferSyntaxUID == uid.JPEGLSLossless
    assert fetched.PixelData == sent.PixelData


def test_orthanc_routes_a_study_to_another_peer(tmp_path: Path, orthanc: Orthanc, storescp: StoreScp) -> None:
    """As a PACS auto-routes to the node."""
    sent = ct_series(tmp_path, slices=2)
    storescu([tmp_path], orthanc.dicom_port)
    orthanc.add_modality("STORESCP", storescp.port)
    orthanc.echo("STORESCP")
    orthanc.send(str(sent[0].StudyInstanceUID), "STORESCP")
    assert len(storescp.files()) == 2


@pytest.mark.peer("orthanc", "dcmtk")
def test_orthanc_keeps_its_studies_over_a_restart(tmp_path: Path) -> None:
    """A PACS that is down, up again with what it had, and one that drops what it has acknowledged."""
    ct_series(tmp_path / "ct", slices=1)
    ct_series(tmp_path / "mr", slices=1, extra={"SOPClassUID": uid.MRImageStorage, "Modality": "MR"})
    with Orthanc(ae_title="PACS", drop=[uid.MRImageStorage]) as pacs:
        storescu([tmp_path / "ct"], pacs.dicom_port)
        pacs.stop()
        assert echoscu(pacs.dicom_port, check=False).returncode != 0
        pacs.start()
        assert len(pacs.instances()) == 1
        storescu([tmp_path / "mr"], pacs.dicom_port)
        assert len(pacs.instances()) == 1
        pacs.wipe()
        assert pacs.studies() == []


# --- dicom3tools ------------------------------------------------------------------------------------------------------
@pytest.mark.peer("dicom3tools")
def test_the_validators_find_what_is_wrong(tmp_path: Path) -> None:
    """A missing type 1 attribute is an error, another patient in the study too."""
    ct_series(tmp_path / "a", slices=1, study_uid="1.2.3")
    ct_series(tmp_path / "b", slices=1, study_uid="1.2.3", patient_id="SOMEBODY")
    (broken,) = ct_series(slices=1, missing=["PhotometricInterpretation"])
    assert any("PhotometricInterpretation" in line for line in dciodvfy(broken).errors)
    assert dciodvfy(tmp_path / "a" / "0001.dcm").errors == ()
    assert dcentvfy([tmp_path / "a" / "0001.dcm"]).errors == ()
    assert any("PatientID" in line for line in dcentvfy(sorted(tmp_path.rglob("*.dcm"))).errors)


# --- PostgreSQL -------------------------------------------------------------------------------------------------------
def test_rows_survive_a_restart_of_postgresql(postgresql_server: PostgreSQL, postgresql_url: str) -> None:
    """Also one by SIGKILL, as when a machine goes down."""
    engine = sqlalchemy.create_engine(postgresql_url, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("CREATE TABLE facts (name text)"))
        connection.execute(sqlalchemy.text("INSERT INTO facts VALUES ('Müller')"))
    for end in (postgresql_server.process.stop, postgresql_server.process.kill):
        end()
        with pytest.raises(sqlalchemy.exc.OperationalError):
            engine.connect()
        postgresql_server.start()
        with engine.connect() as connection:
            assert connection.execute(sqlalchemy.text("SELECT name FROM facts")).scalar_one() == "Müller"


def test_each_test_gets_a_database_of_its_own(postgresql_server: PostgreSQL) -> None:
    """Dropped at the end even while a client is connected."""
    with postgresql_server.database() as first, postgresql_server.database() as second:
        assert first != second
        client = psycopg.connect(first.replace("+psycopg", ""))
    client.close()
    with pytest.raises(psycopg.OperationalError, match="does not exist"):
        psycopg.connect(first.replace("+psycopg", ""))


# --- brokers ----------------------------------------------------------------------------------------------------------
def test_a_message_goes_through_redis(redis_url: str) -> None:
    """By kombu, as Celery does it."""
    publish(redis_url, "job 1")
    assert consume(redis_url) == "job 1"


@pytest.mark.peer("redis")
@pytest.mark.parametrize("persistent", [True, False])
def test_a_redis_that_restarts_keeps_messages_only_if_it_was_told_to(*, persistent: bool) -> None:
    """Both kinds are met in hospitals; the sweep has to find lost messages."""
    with Redis(persistent=persistent) as broker:
        publish(broker.url, "job 2")
        broker.restart()
        if persistent:
            assert consume(broker.url) == "job 2"
        else:
            with pytest.raises(kombu.simple.SimpleQueue.Empty):
                consume(broker.url, timeout_s=0.2)


def test_a_durable_message_survives_a_restart_of_rabbitmq(rabbitmq_server: RabbitMQ, rabbitmq_url: str) -> None:
    """And it is seen in its own virtual host only."""
    publish(rabbitmq_url, "job 3")
    rabbitmq_server.restart()
    with rabbitmq_server.vhost() as other, pytest.raises(kombu.simple.SimpleQueue.Empty):
        consume(other, timeout_s=0.2)
    assert consume(rabbitmq_url) == "job 3"
