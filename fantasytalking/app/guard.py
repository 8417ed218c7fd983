"""Checks every HTTP request before Gradio sees it: host, origin, endpoint, body, and every file that it names."""

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse

from fantasytalking.app.audience import Audience
from fantasytalking.app.hosts import AllowedHosts, is_same_origin
from fantasytalking.app.uploads import folder_bytes, named_paths, uploaded_file
from fantasytalking.common.errors import InputError
from fantasytalking.common.limits import MAX_BODY_BYTES, MAX_UPLOAD_BYTES, MAX_UPLOAD_FOLDER_BYTES

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

UPLOAD_OVERHEAD_BYTES = 64 * 1024
"""Names and boundaries around an uploaded file."""
API = "/gradio_api"
UPLOAD_PATH = f"{API}/upload"
FILE_PREFIX = f"{API}/file="
READ_PATHS = re.compile(
    r"/|/(config|theme\.css|robots\.txt|favicon\.ico|manifest\.json)/?|/(assets|static|svelte)/.+"
    rf"|{API}/(info|openapi\.json|theme\.css|app_id|startup-events|login_check|user|upload_progress)/?"
    rf"|{API}/queue/(data|status)|{API}/heartbeat/[^/]+|{API}/call/(v2/)?[^/]+/[^/]+|{API}/file=.+"
)
"""What may be read. Gradio has further endpoints (a proxy, servers of components, recordings); the page needs none."""
WRITE_PATHS = re.compile(rf"{API}/(queue/join|cancel|reset|(run|api|call|call/v2)/[^/]+)/?")
"""Where JSON may be sent."""
EVENT_PATHS = re.compile(rf"{API}/call/(?:v2/)?[^/]+/([^/]+)")
"""Event streams of one call, by its id."""
PROTECTIVE_HEADERS = {
    # The browser itself refuses whatever would be fetched from, sent to or framed by another server.
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; "
    "form-action 'self'; base-uri 'self'; frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class Refusal(NamedTuple):
    """Why a request is not answered."""

    status: int
    reason: str


class RequestGuard:
    """ASGI middleware that answers what the page needs and refuses everything else.

    Args:
        app: the application behind it.
        hosts: names under which the page may be reached.
        upload_folder: the only folder whose files requests may name or fetch.
        audience: records every event stream while it is open.
    """

    def __init__(self, app: App, hosts: AllowedHosts, upload_folder: Path, audience: Audience) -> None:
        self.app, self.hosts, self.audience = app, hosts, audience
        self.upload_folder = upload_folder.resolve()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        refusal = self._check_sender(scope) or self._check_endpoint(scope)
        if refusal is None and scope["method"] == "POST" and scope["path"].rstrip("/") != UPLOAD_PATH:
            body = await _read_body(receive)
            refusal = self._check_body(Headers(scope=scope), body)
            receive = _replay(body or b"", receive)
        if refusal is not None:
            content = {"detail": refusal.reason, "error": refusal.reason}
            await JSONResponse(content, refusal.status)(scope, receive, send)
            return
        session = _session_listened_to(scope)
        with nullcontext() if session is None else self.audience.listening(session):
            await self.app(scope, receive, _with_headers(send))

    def _check_sender(self, scope: Scope) -> Refusal | None:
        """Whether the request is meant for this server and comes from its own page, or from no page at all."""
        headers = Headers(scope=scope)
        names = headers.getlist("host")
        if len(names) != 1 or not self.hosts.allows(names[0]):
            return Refusal(403, f"host {names[0] if names else '(none)'!r:.80} is not this page's; see --trusted-host")
        if any(not is_same_origin(origin, names[0]) for origin in headers.getlist("origin")):
            return Refusal(403, f"requests from {headers['origin']!r:.80} are refused; open the page itself")
        is_link = scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate" and scope["path"] == "/"
        if headers.get("sec-fetch-site", "none") in ("cross-site", "same-site") and not is_link:
            return Refusal(403, "requests from other websites are refused; open the page itself")
        return None

    def _check_endpoint(self, scope: Scope) -> Refusal | None:
        method, path = scope["method"], scope["path"]
        if method in ("GET", "HEAD"):
            if not READ_PATHS.fullmatch(path):
                return Refusal(404, "there is nothing at this address")
            if path.startswith(FILE_PREFIX):
                return self._check_files([path.removeprefix(FILE_PREFIX)])
            return None
        if method != "POST":
            return Refusal(405, "use GET or POST")
        if path.rstrip("/") == UPLOAD_PATH:
            return self._check_upload(Headers(scope=scope))
        return None if WRITE_PATHS.fullmatch(path) else Refusal(404, "there is nothing at this address")

    def _check_upload(self, headers: Headers) -> Refusal | None:
        length = headers.get("content-length", "")
        if not length.isdecimal():
            return Refusal(411, "an upload states its length")
        if int(length) > MAX_UPLOAD_BYTES + UPLOAD_OVERHEAD_BYTES:
            return Refusal(413, f"the upload has {length} bytes; a file may have up to {MAX_UPLOAD_BYTES} bytes")
        if folder_bytes(self.upload_folder) + int(length) > MAX_UPLOAD_FOLDER_BYTES:
            return Refusal(507, "there is no room for further uploads; try again later")
        return None

    def _check_body(self, headers: Headers, body: bytes | None) -> Refusal | None:
        if body is None:
            return Refusal(413, f"the request is too large; it may have up to {MAX_BODY_BYTES} bytes")
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return Refusal(415, "send JSON, with the content type application/json")
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            return Refusal(400, "the request is not valid JSON")
        return self._check_files(list(named_paths(content)))

    def _check_files(self, paths: list[object]) -> Refusal | None:
        try:
            for path in paths:
                uploaded_file(path, self.upload_folder)
        except InputError as error:
            return Refusal(403, str(error))
        return None


def _session_listened_to(scope: Scope) -> str | None:
    """Returns the session or call whose events a request streams; None: it streams none."""
    if scope["method"] != "GET":
        return None
    if scope["path"] == f"{API}/queue/data":
        return parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [None])[0]
    call = EVENT_PATHS.fullmatch(scope["path"])
    return call[1] if call else None


async def _read_body(receive: Receive) -> bytes | None:
    """Reads a whole body; None where it is larger than `MAX_BODY_BYTES`."""
    body = bytearray()
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            return None
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Returns a `receive` that gives the body that was read, followed by the connection's own messages."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return messages.pop() if messages else await receive()

    return replayed


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(PROTECTIVE_HEADERS)
        await send(message)

    return sending
