"""forms of results, and their order of preference

Revision ID: 0003
Revises: 0002
"""
import sqlalchemy as sa
from alembic import op

revision = '0003'
down_revision = '0002'
branch_labels = None
depends_on = None

KINDS = ('SEG', 'SR')
MORE_KINDS = ('SEG', 'SR', 'KOS', 'SC', 'PDF')
STATES = ('PENDING', 'SENT', 'COMMITTED', 'DEAD', 'CANCELLED')
MORE_STATES = ('PENDING', 'SPARE', 'SENT', 'COMMITTED', 'REFUSED', 'DEAD', 'CANCELLED')
# What the first release wrote.
FORM = "CASE kind WHEN 'SEG' THEN 'seg-binary' ELSE 'sr-3d' END"


def one_of(names: tuple[str, ...], name: str) -> sa.Enum:
    return sa.Enum(*names, name=name, native_enum=False, create_constraint=True, length=16)


def upgrade() -> None:
    """Results of the first release have the forms that it wrote; each was the only one of its kind."""
    with op.batch_alter_table('results') as batch:
        batch.add_column(sa.Column('form', sa.String(length=64), nullable=True))
        batch.add_column(sa.Column('variant', sa.String(length=255), nullable=True))
        batch.add_column(sa.Column('refers_to', sa.String(length=64), nullable=True))
        batch.alter_column('kind', type_=one_of(MORE_KINDS, 'kind'), existing_type=one_of(KINDS, 'kind'), existing_nullable=False)
    op.execute(f"UPDATE results SET form = {FORM}, variant = {FORM}")
    with op.batch_alter_table('results') as batch:
        batch.alter_column('form', existing_type=sa.String(length=64), nullable=False)
        batch.alter_column('variant', existing_type=sa.String(length=255), nullable=False)
    with op.batch_alter_table('deliveries') as batch:
        batch.add_column(sa.Column('rank', sa.Integer(), nullable=False, server_default='0'))
        batch.alter_column('state', type_=one_of(MORE_STATES, 'state'), existing_type=one_of(STATES, 'state'), existing_nullable=False)
    with op.batch_alter_table('deliveries') as batch:
        batch.alter_column('rank', existing_type=sa.Integer(), existing_nullable=False, server_default=None)


def downgrade() -> None:
    """What the first release does not know goes: kinds with their deliveries; a form that was refused is dead."""
    op.execute("DELETE FROM deliveries WHERE result_id IN (SELECT id FROM results WHERE kind NOT IN ('SEG', 'SR'))")
    op.execute("DELETE FROM results WHERE kind NOT IN ('SEG', 'SR')")
    op.execute("UPDATE deliveries SET state = 'CANCELLED' WHERE state = 'SPARE'")
    op.execute("UPDATE deliveries SET state = 'DEAD' WHERE state = 'REFUSED'")
    with op.batch_alter_table('deliveries') as batch:
        batch.alter_column('state', type_=one_of(STATES, 'state'), existing_type=one_of(MORE_STATES, 'state'), existing_nullable=False)
        batch.drop_column('rank')
    with op.batch_alter_table('results') as batch:
        batch.alter_column('kind', type_=one_of(KINDS, 'kind'), existing_type=one_of(MORE_KINDS, 'kind'), existing_nullable=False)
        batch.drop_column('refers_to')
        batch.drop_column('variant')
        batch.drop_column('form')
