"""Why a job failed, for texts in the page's language."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the column."""
    op.add_column("jobs", sa.Column("failure", sa.JSON(), nullable=True))
