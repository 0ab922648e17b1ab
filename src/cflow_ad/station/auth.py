"""Who is who: users with passwords, keys for programs, sessions of browsers."""

from __future__ import annotations

import hashlib
import math
import os
import secrets
import threading
import time
from pathlib import Path
from typing import Any

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from fastapi import Request
from itsdangerous import BadSignature, URLSafeSerializer
from sqlalchemy import Connection, Row, delete, func, insert, select, update

from cflow_ad.errors import StationError
from cflow_ad.station.database import Database, now
from cflow_ad.station.failures import Failures
from cflow_ad.station.permission import User
from cflow_ad.station.refusal import Refusal
from cflow_ad.station.schema import keys, sessions, users

COOKIE = "cflow_session"
SESSION_SECONDS = 12 * 3600.0
_REMEMBER_SECONDS = 5.0
_REMEMBERED = 1000

_KEY_PREFIX = "cflow_"
_SHORTEST_PASSWORD = 10


class Auth:
    """Checks passwords, keys and sessions.

    Args:
        database: with the tables of users, keys and sessions.
        secret: signs the browsers' cookies.
    """

    def __init__(self, database: Database, secret: bytes) -> None:
        self._database = database
        self._cookies = URLSafeSerializer(secret, salt="session")
        self._hasher = PasswordHasher()
        self._failures = Failures()
        self._checking = threading.Lock()  # one at a time: each takes 64 MiB, and many could guess
        self._checked: dict[str, tuple[User, float]] = {}

    def first_password(self) -> str | None:
        """Make the user `admin` where there is no user yet, and return its password."""
        with self._database.engine.connect() as connection:
            if connection.scalar(select(func.count()).select_from(users)):
                return None
        password = secrets.token_urlsafe(12)
        self.add_user("admin", "admin", password)
        return password

    def new_password(self, name: str) -> str:
        """Set a random password for a user, and return it."""
        password = secrets.token_urlsafe(12)
        self.set_password(name, password)
        return password

    def log_in(self, name: str, password: str, address: str) -> tuple[str, User]:
        """Check a password, and begin a session.

        Returns:
            The cookie's value, and the user.

        Raises:
            Refusal: 401, the name or the password is wrong; 429, too many tries.
        """
        with self._checking:
            row = self._check_password(name, password, address)
        token, csrf = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
        now = time.time()

        def begin(connection: Connection) -> None:
            connection.execute(delete(sessions).where(sessions.c.expires < now))
            connection.execute(
                insert(sessions).values(
                    sha256=_sha256(token), user=row.name, csrf=csrf, expires=now + SESSION_SECONDS
                )
            )

        self._database.write(begin)
        return str(self._cookies.dumps(token)), User(row.name, row.role, csrf)

    def _check_password(self, name: str, password: str, address: str) -> Row[Any]:
        who = (f"user {name}", f"address {address}")
        if (wait := math.ceil(self._failures.wait(*who))) > 0:
            raise Refusal(
                429,
                f"too many wrong passwords; wait {wait} s",
                code="login.wait",
                headers={"Retry-After": str(wait)},
                n=wait,
            )
        with self._database.engine.connect() as connection:
            row = connection.execute(select(users).where(users.c.name == name)).one_or_none()
        try:
            if row is None:  # as long as a check, so that the time does not tell who is a user
                self._hasher.hash(password)
            else:
                self._hasher.verify(row.password, password)
        except (VerificationError, InvalidHashError):
            row = None
        if row is None:
            self._failures.note(*who)
            raise Refusal(401, "the user name or the password is wrong", code="login.wrong")
        self._failures.forget(*who)
        return row

    def log_out(self, cookie: str | None) -> None:
        """End a session."""
        token = self._token(cookie)
        if token is not None:
            gone = delete(sessions).where(sessions.c.sha256 == _sha256(token))
            self._database.write(lambda connection: connection.execute(gone))

    def change_password(self, name: str, old: str, new: str) -> None:
        """Change a user's own password, which ends all sessions of that user.

        Raises:
            Refusal: 403, the old one is wrong; 422, the new one is too short.
        """
        with self._database.engine.connect() as connection:
            row = connection.execute(select(users).where(users.c.name == name)).one()
        try:
            self._hasher.verify(row.password, old)
        except (VerificationError, InvalidHashError):
            raise Refusal(403, "the old password is wrong", code="password.wrong") from None
        self.set_password(name, new)

    def set_password(self, name: str, new: str) -> None:
        """Set a user's password, which ends all sessions of that user.

        Raises:
            Refusal: 422, it is too short; 404, there is no such user.
        """
        hashed = self._hash(new)

        def change(connection: Connection) -> int:
            connection.execute(delete(sessions).where(sessions.c.user == name))
            changed = connection.execute(
                update(users).where(users.c.name == name).values(password=hashed)
            )
            return changed.rowcount

        if not self._database.write(change):
            raise Refusal(404, f"there is no user {name}", code="user.unknown", user=name)

    def add_user(self, name: str, role: str, password: str) -> None:
        """Add a user.

        Raises:
            Refusal: 409, the name is taken; 422, the password is too short.
        """
        row = {"name": name, "role": role, "password": self._hash(password), "created": now()}

        def add(connection: Connection) -> bool:
            if connection.scalar(select(users.c.name).where(users.c.name == name)):
                return False
            connection.execute(insert(users).values(**row))
            return True

        if not self._database.write(add):
            raise Refusal(409, f"there is a user {name} already", code="user.known", user=name)

    def remove_user(self, name: str) -> None:
        """Remove a user, and end the sessions of that user.

        Raises:
            Refusal: 404, there is no such user; 409, it is the last admin.
        """

        def remove(connection: Connection) -> str:
            admins = connection.scalars(select(users.c.name).where(users.c.role == "admin")).all()
            if list(admins) == [name]:
                return "last"
            connection.execute(delete(sessions).where(sessions.c.user == name))
            gone = connection.execute(delete(users).where(users.c.name == name))
            return "gone" if gone.rowcount else "missing"

        found = self._database.write(remove)
        if found == "last":
            raise Refusal(409, "this is the last admin; make another one first", code="user.last")
        if found == "missing":
            raise Refusal(404, f"there is no user {name}", code="user.unknown", user=name)

    def add_key(self, name: str, role: str) -> tuple[str, str]:
        """Make a key for a program; return its number and the key, which is not stored."""
        number, key = secrets.token_hex(8), _KEY_PREFIX + secrets.token_urlsafe(32)
        row = {"id": number, "name": name, "role": role, "sha256": _sha256(key), "created": now()}
        self._database.write(lambda connection: connection.execute(insert(keys).values(**row)))
        return number, key

    def remove_key(self, number: str) -> None:
        """Revoke a key.

        Raises:
            Refusal: 404, there is no such key.
        """
        gone = delete(keys).where(keys.c.id == number)
        found = self._database.write(lambda connection: connection.execute(gone).rowcount)
        self._checked.clear()
        if not found:
            raise Refusal(404, f"there is no key {number}", code="key.unknown")

    def key_in_file(self, path: Path) -> None:
        """See that a file holds a valid key of the role operator; write a new one if not.

        Raises:
            StationError: the file cannot be written.
        """
        try:
            if path.exists():
                path.chmod(0o600)
                if self._key(path.read_text(encoding="utf-8").strip()) is not None:
                    return
            _, key = self.add_key(f"in {path.name}", "operator")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            with os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8") as file:
                file.write(key + "\n")
        except (OSError, UnicodeDecodeError) as error:
            raise StationError(f"{path}: the key cannot be written there ({error})") from error

    def has_keys(self) -> bool:
        """Return whether there is a key."""
        with self._database.engine.connect() as connection:
            return bool(connection.scalar(select(func.count()).select_from(keys)))

    def remembered(self, request: Request) -> User | None:
        """Return who sent a request, where its key was checked a moment ago."""
        user, until = self._checked.get(request.headers.get("authorization", ""), (None, 0.0))
        return user if time.monotonic() < until else None

    def identify(self, request: Request) -> User | None:
        """Return who sent a request, by its key or else its cookie; None for nobody known."""
        given = request.headers.get("authorization", "")
        scheme, _, key = given.partition(" ")
        if scheme.lower() == "bearer":
            user = self._key(key.strip())
            if user is not None:
                if len(self._checked) >= _REMEMBERED:
                    self._checked.clear()
                self._checked[given] = (user, time.monotonic() + _REMEMBER_SECONDS)
            return user
        token = self._token(request.cookies.get(COOKIE))
        if token is None:
            return None
        with self._database.engine.connect() as connection:
            row = connection.execute(
                select(users.c.name, users.c.role, sessions.c.csrf)
                .join(users, users.c.name == sessions.c.user)
                .where(sessions.c.sha256 == _sha256(token), sessions.c.expires > time.time())
            ).one_or_none()
        return None if row is None else User(row.name, row.role, row.csrf)

    def _key(self, key: str) -> User | None:
        wanted = select(keys).where(keys.c.sha256 == _sha256(key))
        with self._database.engine.connect() as connection:
            row = connection.execute(wanted).one_or_none()
        return None if row is None else User(f"key {row.name}", row.role)

    def _token(self, cookie: str | None) -> str | None:
        try:
            return None if cookie is None else str(self._cookies.loads(cookie))
        except BadSignature:
            return None

    def _hash(self, password: str) -> str:
        if len(password) < _SHORTEST_PASSWORD:
            raise Refusal(
                422,
                f"a password has at least {_SHORTEST_PASSWORD} characters; choose a longer one",
                code="password.short",
                n=_SHORTEST_PASSWORD,
            )
        return self._hasher.hash(password)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
