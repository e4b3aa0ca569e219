"""commitment reports that peers are owed

Revision ID: 0004
Revises: 0003
"""
import sqlalchemy as sa
from alembic import op

revision = '0004'
down_revision = '0003'
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table('owed_reports',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('calling_ae_title', sa.String(length=16), nullable=False),
    sa.Column('transaction_uid', sa.String(length=64), nullable=False),
    sa.Column('sop_classes', sa.JSON(), nullable=False),
    sa.Column('asked_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('not_before', sa.DateTime(timezone=True), nullable=True),
    sa.Column('lease_until', sa.DateTime(timezone=True), nullable=True),
    sa.Column('attempts', sa.Integer(), nullable=False),
    sa.Column('reported_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('given_up_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('committed_count', sa.Integer(), nullable=True),
    sa.Column('failed_count', sa.Integer(), nullable=True),
    sa.Column('last_error', sa.String(length=512), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_owed_reports')),
    sa.UniqueConstraint('calling_ae_title', 'transaction_uid', name=op.f('uq_owed_reports_calling_ae_title'))
    )
    op.create_index(op.f('ix_owed_reports_reported_at'), 'owed_reports', ['reported_at'], unique=False)


def downgrade() -> None:
    """Take back."""
    op.drop_index(op.f('ix_owed_reports_reported_at'), table_name='owed_reports')
    op.drop_table('owed_reports')
