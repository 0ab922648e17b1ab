"""Changes of the tables, one file each, which Alembic applies in order at the start."""
