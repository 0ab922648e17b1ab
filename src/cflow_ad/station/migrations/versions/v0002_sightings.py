"""Who was told the verdict of a part of the random draw."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table of sightings."""
    op.create_table(
        "sightings",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.Column("user", sa.String(length=100), nullable=False),
        sa.ForeignKeyConstraint(["seq"], ["inspections.seq"], name=op.f("fk_sightings_seq")),
        sa.PrimaryKeyConstraint("seq", "user", name=op.f("pk_sightings")),
    )
