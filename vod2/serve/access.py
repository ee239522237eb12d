"""Who may ask the server for what: names of the host, origins, the token, sessions."""

import hashlib
import hmac
import ipaddress
import re
import secrets
import socket

from vod2.serve.jobs import RefusedError

_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")


class Access:
    """What a request must show.

    A browser sends any page's requests to any address, with the name that the page knows it by. So a request must name
    a host that is meant (a name that an attacker's DNS points here is none), and one that changes something must come
    from the server's own page, or from a program, which has no origin.

    Whoever may use the server gets a session, a cookie that the server has signed; jobs belong to sessions. A session
    is given for the token, or where none is required, to everybody.

    Args:
        host: the address that the server is bound to.
        needs_token: whether a token is required.
        names: further names that the server is called by, also by browsers that reach it through a proxy.
        port: of the server, for the name of the cookie: all ports of a host share their cookies.

    Example:
        >>> access = Access("127.0.0.1", needs_token=False)
        >>> access.require_host("localhost:8000")
        >>> try:
        ...     access.require_host("evil.example:8000")
        ... except RefusedError as error:
        ...     print(error.status)
        421
    """

    def __init__(self, host: str, needs_token: bool, names: tuple[str, ...] = (), port: int = 0) -> None:
        self.token = secrets.token_urlsafe(32) if needs_token else None
        self.cookie = f"vod2-{port}"
        self._only_here = is_loopback(host)
        self._given = frozenset(name.lower() for name in names)
        self._names = {"localhost", *self._given}
        if not self._only_here:
            self._names |= {host.lower(), socket.gethostname().lower()}
        self._key = secrets.token_bytes(32)

    def require_host(self, host: str | None) -> None:
        """Raises RefusedError unless the header Host has a name that is meant; the port is not looked at."""
        match = _HOST.fullmatch(host or "")
        if match is None:
            raise RefusedError(400, "the header Host is missing or malformed")
        name = match[1].lower().strip("[]")
        if name in self._names:
            return
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            raise RefusedError(421, "the server does not go by this name: start it with --allow-host NAME") from None
        # An address is no name that DNS could point elsewhere.
        if self._only_here and not address.is_loopback:
            raise RefusedError(421, "the server only goes by the addresses of its own machine")

    def require_origin(self, origin: str | None, site: str | None, host: str) -> None:
        """Raises RefusedError for a request of another site's page.

        The own page comes from the address that Host names, or where a proxy puts the server's address there, from one
        of the names that were given, with any port: that of the proxy.

        Args:
            origin: the header Origin; None as of programs.
            site: the header Sec-Fetch-Site.
            host: the header Host, which `require_host` has seen.
        """
        if origin is not None and not self._is_own(origin.lower(), host.lower()):
            raise RefusedError(403, "the request comes from the page of another site")
        if site is not None and site not in ("same-origin", "none"):
            raise RefusedError(403, "the request comes from the page of another site")

    def _is_own(self, origin: str, host: str) -> bool:
        scheme, _, address = origin.partition("://")
        match = _HOST.fullmatch(address)
        if scheme not in ("http", "https") or match is None:
            return False
        return address == host or match[1].strip("[]") in self._given

    def accepts(self, token: str | None) -> bool:
        """Whether this is the token; also without one where none is required."""
        if self.token is None:
            return True
        return token is not None and hmac.compare_digest(token.encode(), self.token.encode())

    def new_session(self) -> str:
        """The value of the cookie of a new session."""
        session = secrets.token_hex(16)
        return f"{session}.{self._signature(session)}"

    def session_of(self, cookies: str | None) -> str | None:
        """The session that a header Cookie holds, None if there is none or not one of this server."""
        # Not http.cookies: cookies of this host's other servers come along, and one that it refuses would hide ours.
        pairs = [part.strip().partition("=") for part in (cookies or "").split(";")]
        values = [value for name, _, value in pairs if name == self.cookie]
        for value in values:
            session, _, signature = value.partition(".")
            if hmac.compare_digest(signature.encode(), self._signature(session).encode()):
                return session
        return None

    def set_cookie(self, value: str) -> str:
        """The header Set-Cookie. It ends with the browser, or with the server, whose key signs no other's sessions."""
        return f"{self.cookie}={value}; Path=/; HttpOnly; SameSite=Strict"

    def _signature(self, session: str) -> str:
        return hmac.new(self._key, session.encode(), hashlib.sha256).hexdigest()


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach a server that is bound to `host`.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("::1"), is_loopback("0.0.0.0")
        (True, True, True, False)
    """
    try:
        addresses = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return bool(addresses) and all(ipaddress.ip_address(str(a).split("%")[0]).is_loopback for a in addresses)
