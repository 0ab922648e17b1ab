"""Applies the changes on the connection that `database.migrate` gives."""

from alembic import context

from cflow_ad.station.schema import metadata

if hasattr(context, "config"):  # not where it is merely imported
    context.configure(
        connection=context.config.attributes["connection"],
        target_metadata=metadata,
        render_as_batch=True,
    )
    with context.begin_transaction():
        context.run_migrations()
