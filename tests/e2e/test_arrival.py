"""A node that is killed between asking for commitment and the report: after its restart the result is committed."""

from __future__ import annotations

from pathlib import Path
from threading import Event

import pytest

from dicom_node.states import DeliveryState
from dicom_node.tables import Commitment, Delivery
from tests.dicom_factory import write
from tests.dicom_node.confirming import destination
from tests.dicom_node.house import House, head_ct
from tests.e2e.node import Node
from tests.peers import HOST, Orthanc, Process, storescu, wait_until
from tests.peers.committing_pacs import CommittingPacs

pytestmark = [
    pytest.mark.e2e,
    # pynetdicom drops the socket of a connection that failed without closing it.
    pytest.mark.filterwarnings("ignore:Exception ignored in. <socket:pytest.PytestUnraisableExceptionWarning"),
]


def node_that_asks(folder: Path, pacs: tuple[str, int], *, report_wait_s: float = 0.0) -> tuple[Node, House]:
    """A node without workers, and its house, in which a SEG and an SR wait to be sent and committed to."""
    node = Node(
        folder,
        destinations={"pacs": pacs},
        sections={"worker": {"processes": 0}, "confirmation": {"report_wait_s": report_wait_s}},
        of_each_destination={"commitment": True},
    )
    house = House(folder, config=destination(pacs[1], ae_title=pacs[0]))
    house.finish(house.claimed())
    return node, house


def states(house: House) -> set[DeliveryState]:
    """Of all deliveries."""
    return {delivery.state for delivery in house.all(Delivery)}


def failed_reports(orthanc: Orthanc) -> set[str]:
    """Ids of Orthanc's jobs that could not bring a report."""
    jobs = orthanc.rest("GET", "/jobs?expand").json()
    return {job["ID"] for job in jobs if (job["Type"], job["State"]) == ("StorageCommitmentScp", "Failure")}


def test_a_node_that_is_killed_while_it_asks_still_ends_committed(tmp_path: Path) -> None:
    """SIGKILL to all its processes before the PACS has answered the N-ACTION; the report comes after the restart."""
    with CommittingPacs(reports="never") as pacs:
        node, house = node_that_asks(tmp_path, ("PACS", pacs.port), report_wait_s=30.0)
        pacs.report_to = node.port
        up = Event()
        pacs.on_action = lambda: up.wait(60.0) and node.process.kill()
        node.start()  # asks perhaps before it answers C-ECHO
        up.set()
        wait_until(lambda: bool(pacs.asked) and not node.process.running, what="the request, and the kill")
        assert states(house) == {DeliveryState.SENT}
        pacs.on_action = lambda: None
        pacs.reports = "new"
        with node:
            pacs.report(pacs.asked[0])
            wait_until(lambda: states(house) == {DeliveryState.COMMITTED}, what="the end", process=node.process)
            (job,) = node.json("jobs")
            assert job["arrived"] == "committed"
            assert node.ledger()["confirmation"]["waiting"] == 0
    assert pacs.asked[0].transaction_uid in {row.transaction_uid for row in house.all(Commitment)}
    assert set(pacs.held.values()) == {1}, "nothing was sent twice"
    house.engine.dispose()


@pytest.mark.peer("orthanc", "dcmtk")
def test_orthanc_reports_to_a_node_that_was_restarted(orthanc: Orthanc, tmp_path: Path) -> None:
    """Its first report finds nobody; tried again by its administrator, it finds the transaction in the row."""
    node, house = node_that_asks(tmp_path, ("ORTHANC", orthanc.dicom_port))
    earlier = failed_reports(orthanc)
    orthanc.add_modality(node.ae_title, node.port)
    sweeper = Process([*node.process.command, "--role", "sweeper"], name="sweeper", folder=tmp_path)
    with sweeper:
        wait_until(lambda: bool(house.all(Commitment)), what="the request", process=sweeper)
        wait_until(lambda: bool(failed_reports(orthanc) - earlier), what="a report that finds nobody")
        sweeper.kill()
    assert states(house) == {DeliveryState.SENT}
    with node:
        (report,) = failed_reports(orthanc) - earlier
        orthanc.rest("POST", f"/jobs/{report}/resubmit")
        wait_until(lambda: states(house) == {DeliveryState.COMMITTED}, what="the report", process=node.process)
    house.engine.dispose()


@pytest.mark.peer("orthanc", "dcmtk")
def test_a_sender_gets_its_report_after_the_node_was_killed(orthanc: Orthanc, tmp_path: Path) -> None:
    """Orthanc sends, asks and releases; the node is killed before it reports, and reports when it is back."""
    node = Node(tmp_path, destinations={}, sections={"worker": {"processes": 0}})
    with node.config_path.open("a") as config:
        config.write(f'[[listener.peer]]\nae_title = "ORTHANC"\nhost = "{HOST}"\nport = {orthanc.dicom_port}\n')
    listener = Process([*node.process.command, "--role", "listener"], name="listener", folder=tmp_path)
    files = write(head_ct(slices=3), tmp_path / "ct")
    for file in files:
        orthanc.upload(file)
    node.cli("db", "upgrade")
    with listener:
        wait_until(node.answers, what="the listener", process=listener)
        storescu(files, node.port, calling="ORTHANC", called=node.ae_title)
        orthanc.add_modality(node.ae_title, node.port)
        uids = orthanc.instances()
        transaction = orthanc.ask_commitment(node.ae_title, dict.fromkeys(uids, "1.2.840.10008.5.1.4.1.1.2"))
        listener.kill()
    assert orthanc.commitment(transaction)["Status"] == "Pending"
    with node:
        wait_until(lambda: orthanc.commitment(transaction)["Status"] == "Success", what="it", process=node.process)
        assert node.ledger()["commitments_asked_by_peers"]["owed"] == 0
