"""what retention removed, and what it must not: instances that a peer was told are kept

Revision ID: 0005
Revises: 0004
"""
import sqlalchemy as sa
from alembic import op

revision = '0005'
down_revision = '0004'
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply. Whatever this node has committed to before, without saying to which, counts as promised."""
    with op.batch_alter_table('instances') as table:
        table.add_column(sa.Column('promised_at', sa.DateTime(timezone=True), nullable=True))
    with op.batch_alter_table('studies') as table:
        table.add_column(sa.Column('images_removed_at', sa.DateTime(timezone=True), nullable=True))
    with op.batch_alter_table('results') as table:
        table.add_column(sa.Column('file_removed_at', sa.DateTime(timezone=True), nullable=True))
    _promise_what_was_reported()


def _promise_what_was_reported() -> None:
    """Of each report with something committed, all that it was asked about: which of it is not in the row."""
    connection = op.get_bind()
    owed = sa.table(
        'owed_reports', sa.column('sop_classes', sa.JSON), sa.column('committed_count'), sa.column('reported_at')
    )
    instances = sa.table('instances', sa.column('sop_instance_uid'), sa.column('promised_at'))
    reported = sa.select(owed.c.sop_classes, owed.c.reported_at).where(owed.c.committed_count > 0)
    for sop_classes, reported_at in connection.execute(reported).all():
        for uid in sop_classes:
            connection.execute(
                sa.update(instances).where(instances.c.sop_instance_uid == uid).values(promised_at=reported_at)
            )


def downgrade() -> None:
    """Take back."""
    with op.batch_alter_table('results') as table:
        table.drop_column('file_removed_at')
    with op.batch_alter_table('studies') as table:
        table.drop_column('images_removed_at')
    with op.batch_alter_table('instances') as table:
        table.drop_column('promised_at')
