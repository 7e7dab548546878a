"""How the app is run: its limits, and who may reach it."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from seg3d.errors import ConfigError

TOKEN_VARIABLE = "SEG3D_TOKEN"
_SHORTEST_TOKEN = 16


@dataclass(frozen=True)
class Limits:
    """What one client, and all of them together, may ask for.

    Attributes:
        upload_bytes: Largest request, all its files together.
        voxels: Most values (voxels times channels) of an upload once unpacked, and of the volume prepared from it.
        waiting: Scans that are uploaded or wait while another is predicted; one more is answered "busy".
        kept_s: Seconds after which a finished job and its files are deleted.
        stored_bytes: Bytes of finished jobs above which new scans are answered "busy".
        upload_s: Seconds that an upload may take.
        silence_s: Seconds without a byte after which an upload is given up.
    """

    upload_bytes: int = 512 << 20
    voxels: int = 1 << 27
    waiting: int = 8
    kept_s: float = 1800.0
    stored_bytes: int = 8 << 30
    upload_s: float = 900.0
    silence_s: float = 30.0


def is_loopback(host: str) -> bool:
    """Whether an address is reached from this machine only.

    Raises:
        ConfigError: The name cannot be resolved.
    """
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError as error:
        raise ConfigError("the address cannot be used", where="--host", got=host, fix=f"{error}") from error
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)


def read_token(file: Path | None) -> str | None:
    """The token that clients must show: of a file, else of the variable ``SEG3D_TOKEN``; ``None`` where neither is.

    Raises:
        ConfigError: The file cannot be read, or the token is too short to keep anybody out.
    """
    if file is None:
        given, where = os.environ.get(TOKEN_VARIABLE, ""), TOKEN_VARIABLE
        if not given:
            return None
    else:
        where = str(file)
        try:
            given = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError("the token cannot be read", where=where, got=type(error).__name__) from error
    token = given.strip()
    if len(token) < _SHORTEST_TOKEN or not token.isascii() or not token.isprintable():
        raise ConfigError(
            "the token cannot be used",
            where=where,
            got=f"{len(token)} characters",
            expected=f"{_SHORTEST_TOKEN} plain characters or more",
            fix="Make one: python -c 'import secrets; print(secrets.token_urlsafe(32))'",
        )
    return token


def refuse_open_address(host: str, token: str | None) -> None:
    """Refuse to let other machines in without a token.

    Raises:
        ConfigError: The address is reached from elsewhere and there is no token.
    """
    if token is None and not is_loopback(host):
        raise ConfigError(
            "other machines could reach the app without a token",
            where="--host",
            got=host,
            expected="127.0.0.1, or a token",
            fix=f"Set {TOKEN_VARIABLE} or give --token-file, and put TLS in front.",
        )
