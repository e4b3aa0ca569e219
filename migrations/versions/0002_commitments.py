"""storage commitment of deliveries

Revision ID: 0002
Revises: 0001
"""
import sqlalchemy as sa
from alembic import op
from alembic.operations import BatchOperations

revision = '0002'
down_revision = '0001'
branch_labels = None
depends_on = None

STATES = ('PENDING', 'SENT', 'DEAD', 'CANCELLED')


def upgrade() -> None:
    """Apply."""
    op.create_table('commitments',
    sa.Column('id', sa.Integer(), nullable=False),
    sa.Column('transaction_uid', sa.String(length=64), nullable=False),
    sa.Column('destination', sa.String(length=64), nullable=False),
    sa.Column('sop_instance_uids', sa.JSON(), nullable=False),
    sa.Column('asked_at', sa.DateTime(timezone=True), nullable=False),
    sa.Column('reported_at', sa.DateTime(timezone=True), nullable=True),
    sa.Column('committed_count', sa.Integer(), nullable=False),
    sa.Column('failed_count', sa.Integer(), nullable=False),
    sa.Column('last_error', sa.String(length=512), nullable=True),
    sa.PrimaryKeyConstraint('id', name=op.f('pk_commitments')),
    sa.UniqueConstraint('transaction_uid', name=op.f('uq_commitments_transaction_uid'))
    )
    with op.batch_alter_table('deliveries') as batch:
        batch.add_column(sa.Column('commitment_id', sa.Integer(), nullable=True))
        batch.add_column(sa.Column('confirm_at', sa.DateTime(timezone=True), nullable=True))
        batch.add_column(sa.Column('confirm_attempts', sa.Integer(), nullable=False, server_default='0'))
        batch.add_column(sa.Column('confirm_rounds', sa.Integer(), nullable=False, server_default='0'))
        batch.add_column(sa.Column('committed_at', sa.DateTime(timezone=True), nullable=True))
        batch.add_column(sa.Column('committed_by', sa.String(length=16), nullable=True))
        batch.create_foreign_key(
            op.f('fk_deliveries_commitment_id_commitments'), 'commitments', ['commitment_id'], ['id']
        )
        _allow(batch, (*STATES, 'COMMITTED'))
    op.create_index(op.f('ix_deliveries_commitment_id'), 'deliveries', ['commitment_id'], unique=False)
    op.create_index(op.f('ix_deliveries_confirm_at'), 'deliveries', ['confirm_at'], unique=False)


def downgrade() -> None:
    """Take back: a committed delivery was sent."""
    op.execute("UPDATE deliveries SET state = 'SENT' WHERE state = 'COMMITTED'")
    op.drop_index(op.f('ix_deliveries_confirm_at'), table_name='deliveries')
    op.drop_index(op.f('ix_deliveries_commitment_id'), table_name='deliveries')
    with op.batch_alter_table('deliveries') as batch:
        batch.drop_constraint(op.f('fk_deliveries_commitment_id_commitments'), type_='foreignkey')
        for name in (
            'committed_by', 'committed_at', 'confirm_rounds', 'confirm_attempts', 'confirm_at', 'commitment_id'
        ):
            batch.drop_column(name)
        _allow(batch, STATES)
    op.drop_table('commitments')


def _allow(batch: BatchOperations, states: tuple[str, ...]) -> None:
    """Let the CHECK list these states. SQLite makes the table anew, without its CHECKs: there is none to drop."""
    if op.get_bind().dialect.name != 'sqlite':
        batch.drop_constraint(op.f('ck_deliveries_state'), type_='check')
    listed = ', '.join(f"'{state}'" for state in states)
    batch.create_check_constraint(op.f('ck_deliveries_state'), f"state IN ({listed})")
