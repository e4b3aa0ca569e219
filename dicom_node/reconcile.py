"""Finds and removes files, received or made here, that no row knows: what a crash left between a file's name and its
row, and what retention let go of.

Nothing was acknowledged for the former, so the sender still has them, and the job of a result is run again. But a crash
leaves few: where many received files are without a row, the database is an older copy, and they may be all that is left
of what was acknowledged since. They stay, and somebody is told.

A file of the same bytes may be arriving at this very moment, therefore the removal and the look at the rows happen in
one transaction that keeps other writers out; intake and the end of a job look for their files inside the transaction
that writes the rows (intake_rows, jobs), so either the row is seen here or the missing file is seen there.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import sqlalchemy as sa
import structlog

from dicom_node.archive import job_of_picture
from dicom_node.tables import PICTURE, Conflict, Instance, Job, Result, Study

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dicom_node.archive import Archive

log = structlog.get_logger()

ORPHAN_AGE_S = 3600.0
"""Younger files may be waiting for their row."""
BATCH = 500
MOST_OF_A_CRASH = 100
"""Received files without a row that a crash may have left: one for each association that was open, some to spare."""


def reconcile(
    engine: sa.Engine, archive: Archive, *, older_than_s: float = ORPHAN_AGE_S, remove: bool = True
) -> list[str]:
    """Paths of the orphans of at least that age that were removed, or would be where `remove` is false.

    Raises SQLAlchemyError, ArchiveError.
    """
    orphans: list[str] = []
    received: list[str] = []
    count = 0
    for paths in _batches(archive.committed(older_than_s=older_than_s)):
        with engine.execution_options(read_only=True).connect() as connection:
            suspects = _unknown(connection, paths)
            if not suspects:
                continue
            of_studies = _perhaps_acknowledged(connection, suspects)
        count += len(of_studies)
        received += of_studies[: MOST_OF_A_CRASH - len(received)]
        others = sorted(set(suspects).difference(of_studies))
        orphans += remove_unknown(engine, archive, others) if remove and others else others
    if count <= MOST_OF_A_CRASH:
        orphans += remove_unknown(engine, archive, received) if remove and received else received
    else:
        log.error(
            "received files without a row are too many to be of a crash, and stay: was the database restored from an "
            "older copy? Send the archive's folder `instances` to this node again, and they get their rows",
            count=count,
        )
    if orphans:
        log.warning("files without a row", count=len(orphans), removed=remove)
    return orphans


def remove_unknown(engine: sa.Engine, archive: Archive, paths: Sequence[str]) -> list[str]:
    """Remove those of the files that no row knows, while no row can be written. Returns their paths.

    Raises SQLAlchemyError, ArchiveError; what is left then is found by the next `reconcile`.
    """
    with engine.begin() as connection:
        _keep_writers_out(connection)
        unknown = _unknown(connection, paths)
        for path in unknown:
            archive.remove(path)
    return unknown


def _unknown(connection: sa.Connection, paths: Sequence[str]) -> list[str]:
    """Those of `paths` that no row names."""
    known = set(
        connection.scalars(sa.select(Result.path).where(Result.path.in_(paths), Result.file_removed_at.is_(None)))
    )
    for table in (Instance, Conflict):
        known.update(connection.scalars(sa.select(table.path).where(table.path.in_(paths))))
    of_jobs = {job_id for path in paths if (job_id := job_of_picture(path)) is not None}
    summaries = connection.scalars(sa.select(Job.summary).where(Job.id.in_(of_jobs)))
    known.update(str(summary.get(PICTURE)) for summary in summaries if summary)
    return [path for path in paths if path not in known]


def _perhaps_acknowledged(connection: sa.Connection, paths: Sequence[str]) -> list[str]:
    """Of files without a row those that were received, but for the images that retention took from their study."""
    study_of = {path: path.split("/")[2] for path in paths if path.startswith("instances/")}
    study_of |= {path: "" for path in paths if path.startswith("conflicts/")}
    emptied = sa.select(Study.study_instance_uid).where(
        Study.study_instance_uid.in_(set(study_of.values())), Study.images_removed_at.is_not(None)
    )
    gone = set(connection.scalars(emptied))
    return [path for path, uid in study_of.items() if uid not in gone]


def _keep_writers_out(connection: sa.Connection) -> None:
    """SQLite: BEGIN IMMEDIATE does it already. PostgreSQL: a lock that inserts wait for."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("LOCK TABLE instances, conflicts, results IN SHARE ROW EXCLUSIVE MODE"))


def _batches(paths: Iterator[str]) -> Iterator[list[str]]:
    while batch := list(islice(paths, BATCH)):
        yield batch
