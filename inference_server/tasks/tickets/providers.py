"""Providers: who may serve for them, and the external services that they offer."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, exists, insert, select, update

from inference_server.errors import BadRequest, Conflict
from inference_server.tasks.caller import ANONYMOUS, BUILT_IN_NAMES
from inference_server.tasks.database import Database
from inference_server.tasks.schema import tokens
from inference_server.tasks.tickets.document import GITHASH, document_of, service_from
from inference_server.tasks.tickets.record import Offer, Service
from inference_server.tasks.tickets.tables import members, offers, providers, services, users

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_OFFERED = select(services).where(services.c.githash.in_(select(offers.c.githash)))


@dataclass(frozen=True)
class Member:
    """Somebody who may serve for a provider. `name` is that of an access token."""

    id: int
    name: str
    is_admin: bool


class Providers:
    """Records of providers and external services. Every method raises `StoreUnavailable` as the others do.

    Args:
        database: migrated.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def names(self) -> tuple[str, ...]:
        """Return the providers."""
        with self._database.reading() as connection:
            return tuple(connection.scalars(select(providers.c.name).order_by(providers.c.name)))

    def add(self, name: str) -> None:
        """Make a provider, if there is none of this name.

        Raises:
            BadRequest: the name cannot be used.
        """
        if not _NAME.fullmatch(name):
            raise BadRequest("A provider's name has up to 64 letters, digits, dots, dashes and underlines.")
        with self._database.writing() as connection:
            if not _is_there(connection, name):
                connection.execute(insert(providers), {"name": name})

    def remove(self, name: str) -> None:
        """Remove a provider; services that nobody else offers are no longer listed.

        Raises:
            BadRequest: there is none of this name.
        """
        with self._database.writing() as connection:
            _refuse_unknown(connection, name)
            connection.execute(delete(providers).where(providers.c.name == name))

    def members(self, name: str) -> tuple[Member, ...]:
        """Return who may serve for a provider.

        Raises:
            BadRequest: there is no such provider.
        """
        query = select(users.c.id, users.c.name, members.c.is_admin).join(members, members.c.user_id == users.c.id)
        with self._database.reading() as connection:
            _refuse_unknown(connection, name)
            found = connection.execute(query.where(members.c.provider == name).order_by(users.c.name))
            return tuple(Member(*row) for row in found)

    def admit(self, name: str, user: str, *, is_admin: bool = False) -> None:
        """Let somebody serve for a provider.

        Args:
            name: the provider's.
            user: name of an access token.
            is_admin: noted, and told to clients.

        Raises:
            BadRequest: there is no such provider, or no such token.
        """
        with self._database.writing() as connection:
            _refuse_unknown(connection, name)
            user_id = _user_id(connection, user)
            connection.execute(_membership(name, user_id))
            row = {"provider": name, "user_id": user_id, "is_admin": is_admin}
            connection.execute(insert(members), row)

    def dismiss(self, name: str, user: int | str) -> None:
        """Let somebody, by name or number, serve for a provider no longer.

        Raises:
            BadRequest: he did not.
        """
        with self._database.writing() as connection:
            key = users.c.id if isinstance(user, int) else users.c.name
            user_id = connection.scalar(select(users.c.id).where(key == user))
            if user_id is None or not connection.execute(_membership(name, user_id)).rowcount:
                raise BadRequest(f"The provider '{name[:64]}' has no such user.")

    def services(self) -> tuple[Service, ...]:
        """Return the external services that somebody offers, by name and version."""
        with self._database.reading() as connection:
            found = connection.execute(_OFFERED.order_by(services.c.name, services.c.version))
            return tuple(map(_service, found))

    def offers_of(self, name: str) -> tuple[Service, ...]:
        """Return the services of a provider.

        Raises:
            BadRequest: there is no such provider.
        """
        with self._database.reading() as connection:
            _refuse_unknown(connection, name)
        return tuple(offer.service for offer in self._offers(offers.c.provider == name))

    def offers_to(self, user: str) -> tuple[Offer, ...]:
        """Return what somebody may serve, and for which provider."""
        mine = select(members.c.provider).join(users, users.c.id == members.c.user_id).where(users.c.name == user)
        return self._offers(offers.c.provider.in_(mine))

    def offer(self, name: str, service: Service) -> None:
        """Have a provider offer a service.

        Raises:
            BadRequest: there is no such provider.
            Conflict: another service has the same name and version, or another name the same hash.
        """
        row = {"githash": service.githash, "name": service.name, "version": service.version}
        with self._database.writing() as connection:
            _refuse_unknown(connection, name)
            _refuse_twin(connection, service)
            document = document_of(service)
            known = update(services).where(services.c.githash == service.githash).values(document=document)
            if not connection.execute(known).rowcount:
                connection.execute(insert(services), {**row, "document": document})
            connection.execute(_offering(name, service.githash))
            connection.execute(insert(offers), {"provider": name, "githash": service.githash})

    def withdraw(self, name: str, githash: str) -> None:
        """Have a provider offer a service no longer; if nobody else does, it is no longer listed.

        Raises:
            BadRequest: he did not offer it.
        """
        with self._database.writing() as connection:
            if not GITHASH.fullmatch(githash) or not connection.execute(_offering(name, githash)).rowcount:
                raise BadRequest(f"The provider '{name[:64]}' does not offer this service.")

    def note_seen(self, connection: Connection, githashes: Collection[str], at: float) -> None:
        """Note in a transaction that somebody asked for tickets of services."""
        connection.execute(update(services).where(services.c.githash.in_(list(githashes))).values(seen_at=at))

    def _offers(self, *conditions: Any) -> tuple[Offer, ...]:
        query = select(services, offers.c.provider).join(offers, offers.c.githash == services.c.githash)
        order = (services.c.name, services.c.version, offers.c.provider)
        with self._database.reading() as connection:
            found = connection.execute(query.where(*conditions).order_by(*order))
            return tuple(Offer(_service(row), row.provider) for row in found)


def _service(row: Row[Any]) -> Service:
    return service_from(row.document, row.githash)


def _is_there(connection: Connection, name: str) -> bool:
    return bool(_NAME.fullmatch(name) and connection.scalar(select(exists().where(providers.c.name == name))))


def _refuse_unknown(connection: Connection, name: str) -> None:
    if not _is_there(connection, name):
        raise BadRequest(f"There is no provider '{name[:64]}'.", field="provider")


def _refuse_twin(connection: Connection, service: Service) -> None:
    is_same = (services.c.name == service.name, services.c.version == service.version)
    offered = connection.execute(_OFFERED.where(*is_same)).all()
    if any(row.githash != service.githash for row in offered):
        raise Conflict("Another service of this name and version is offered. Give this one another version.")
    known = connection.execute(select(services).where(services.c.githash == service.githash)).one_or_none()
    if known is not None and (known.name, known.version) != (service.name, service.version):
        raise Conflict("This hash belongs to another service.", field="githash")


def _user_id(connection: Connection, name: str) -> int:
    has_token = exists().where(tokens.c.name == name, tokens.c.revoked_at.is_(None))
    is_known = name in BUILT_IN_NAMES - {ANONYMOUS.name} or connection.scalar(select(has_token))
    if not is_known:
        raise BadRequest("There is no access token of this name.", field="email")
    found = connection.scalar(select(users.c.id).where(users.c.name == name))
    if found is not None:
        return int(found)
    return int(connection.execute(insert(users).returning(users.c.id), {"name": name}).scalar_one())


def _membership(provider: str, user_id: int) -> Any:
    return delete(members).where(members.c.provider == provider, members.c.user_id == user_id)


def _offering(provider: str, githash: str) -> Any:
    return delete(offers).where(offers.c.provider == provider, offers.c.githash == githash)
