"""one index of deliveries for what waits to be sent, and for what waits to be made sure of

Revision ID: 0006
Revises: 0005
"""
from alembic import op

revision = '0006'
down_revision = '0005'
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Of two indexes SQLite took that of the state, and looked at everything that was ever sent at each poll."""
    op.drop_index(op.f('ix_deliveries_confirm_at'), table_name='deliveries')
    op.drop_index(op.f('ix_deliveries_state'), table_name='deliveries')
    op.create_index(op.f('ix_deliveries_state'), 'deliveries', ['state', 'confirm_at'], unique=False)


def downgrade() -> None:
    """Take back."""
    op.drop_index(op.f('ix_deliveries_state'), table_name='deliveries')
    op.create_index(op.f('ix_deliveries_state'), 'deliveries', ['state'], unique=False)
    op.create_index(op.f('ix_deliveries_confirm_at'), 'deliveries', ['confirm_at'], unique=False)
