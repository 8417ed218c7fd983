"""Decides under which names the page may be reached, so that no other website can reach it through a browser."""

import ipaddress
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
DEFAULT_PORTS = {"http": 80, "https": 443}


class AllowedHosts:
    """The names of the server in the header `Host`.

    A website whose domain is pointed at this machine (DNS rebinding) sends its own domain as the host. So the host has
    to be localhost, the address that is listened on, the name of the machine if others can reach it, or a trusted name;
    any literal address where every address is listened on.

    Args:
        bound: the address or name that the server listens on.
        trusted: further names, such as that of a reverse proxy.
    """

    def __init__(self, bound: str, trusted: Collection[str] = ()) -> None:
        bound = bound.strip("[]").lower()
        address = _address(bound)
        self._any_address = address is not None and address.is_unspecified
        is_loopback = bound == "localhost" or (address is not None and address.is_loopback)
        machine = set() if is_loopback else {socket.gethostname().lower()}
        self._names = LOOPBACK_NAMES | machine | {bound} | {name.strip("[]").lower() for name in trusted}

    def allows(self, header: str) -> bool:
        """Whether a `Host` header names this server. The port may differ: a tunnel has another one."""
        name = _split(header)[0]
        return name in self._names or (self._any_address and _address(name) is not None)


def is_same_origin(origin: str, host: str) -> bool:
    """Whether the `Origin` header of a request is the server that its `Host` header names."""
    scheme = urlsplit(origin).scheme
    if scheme not in DEFAULT_PORTS:
        return False
    ours, theirs = _split(host), _split(origin.partition("://")[2])
    default = DEFAULT_PORTS[scheme]
    return ours[0] == theirs[0] != "" and (ours[1] or default) == (theirs[1] or default)


def _split(netloc: str) -> tuple[str, int | None]:
    """Returns name and port of NAME:PORT; an empty name where it cannot be parsed."""
    try:
        parts = urlsplit(f"//{netloc}")
        plain = not (parts.path or parts.query or parts.fragment or parts.username is not None)
        return ((parts.hostname or "").removesuffix(".") if plain else "", parts.port)
    except ValueError:
        return "", None


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
