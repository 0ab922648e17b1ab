"""Rows that are chained by hashes, so that an altered or missing one shows.

A row's seal is a keyed hash (HMAC-SHA-256) of its content and of the seal before it. The table
`chains` holds how many rows there are and the last seal, so that rows cut from the end show too.
Who has the station's secret key can make other seals; who can only write to the database cannot.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from sqlalchemy import Column, Connection, Insert, Table, bindparam, insert, select, update

from cflow_ad.station.schema import chains

_START = "0" * 64
# Built once: they are executed with each inspection.
_HEAD = select(chains).where(chains.c.name == bindparam("of")).with_for_update()
_NEW_HEAD = update(chains).where(chains.c.name == bindparam("of"))


def append(connection: Connection, table: Table, rows: list[dict[str, Any]], key: bytes) -> None:
    """Insert rows into a sealed table, and put number and seal into them.

    Args:
        connection: in a transaction.
        table: with an integer key, which is set here, and a column `seal`.
        rows: without these two; one or more.
        key: the station's secret.
    """
    at = connection.execute(_HEAD, {"of": table.name}).one_or_none()
    count, seal = (0, _START) if at is None else (at.rows, at.seal)
    number = _key_column(table).name
    for row in rows:
        count += 1
        row[number] = count
        seal = row["seal"] = compute_seal(table, row, seal, key)
    connection.execute(_insert_into(table), rows)
    values = {"rows": count, "seal": seal}
    if at is None:
        connection.execute(insert(chains).values(name=table.name, **values))
    else:
        connection.execute(_NEW_HEAD, {"of": table.name, **values})


def compute_seal(table: Table, row: Mapping[str, Any], before: str, key: bytes) -> str:
    """Compute a row's seal, in hexadecimal."""
    content = {column.name: row.get(column.name) for column in table.c if column.name != "seal"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hmac.new(key, f"{before}{table.name}{text}".encode(), hashlib.sha256).hexdigest()


def check(connection: Connection, table: Table, key: bytes) -> Iterator[str]:
    """Say of each row that was altered or is missing what is wrong with it."""
    number = _key_column(table)
    seal, expected = _START, 1
    rows = connection.execution_options(yield_per=1000).execute(select(table).order_by(number))
    for found in rows:
        row = dict(found._mapping)
        at = row[number.name]
        name = f"{table.name} {at}"
        if at != expected:
            yield f"{table.name} {_span(expected, at - 1)}: missing"
            # The next row's seal rests on a missing one: take the stored one, and go on.
        elif compute_seal(table, row, seal, key) != row["seal"]:
            yield f"{name}: altered"
        seal, expected = row["seal"], at + 1
    head = connection.execute(select(chains).where(chains.c.name == table.name)).one_or_none()
    count, last = (0, _START) if head is None else (head.rows, head.seal)
    if count >= expected:
        yield f"{table.name} {_span(expected, count)}: missing"
    elif count < expected - 1:
        yield f"{table.name} {_span(count + 1, expected - 1)}: added from outside"
    elif last != seal:
        yield f"{table.name}: the last seal does not fit"


@cache
def _insert_into(table: Table) -> Insert:
    return insert(table)


def _span(first: int, last: int) -> str:
    return f"{first}" if first == last else f"{first} to {last}"


def _key_column(table: Table) -> Column[Any]:
    (column,) = table.primary_key.columns
    return column
