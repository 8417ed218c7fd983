"""Serves the web page."""

import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import gradio as gr
import uvicorn
from fastapi import FastAPI

from fantasytalking.app.audience import Audience
from fantasytalking.app.guard import RequestGuard
from fantasytalking.app.hosts import AllowedHosts
from fantasytalking.app.page import build_page
from fantasytalking.app.service import GenerationService
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.limits import MAX_UPLOAD_BYTES
from fantasytalking.common.resources import resource_path
from fantasytalking.inference.console import notify

FONT_FAMILIES = ["system-ui", "sans-serif"]
"""Fonts of the visitor's system: none is downloaded."""
DEMO_INPUTS = ("data/demo/portrait.png", "data/demo/speech.wav")
UPLOAD_FOLDER_VARIABLE = "GRADIO_TEMP_DIR"
"""Environment variable from which Gradio reads the folder of uploads and of what it serves."""
MAX_CONNECTIONS = 256
STOP_SECONDS = 3
"""Seconds that a running generation and open connections get to end in when the server stops."""


@contextmanager
def upload_folder() -> Iterator[Path]:
    """Yields the folder for uploads: that of `GRADIO_TEMP_DIR`, or a private one that is removed at the end."""
    given = os.environ.get(UPLOAD_FOLDER_VARIABLE)
    if given:
        folder = Path(given).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    folder = Path(tempfile.mkdtemp(prefix="fantasytalking-page-")).resolve()
    os.environ[UPLOAD_FOLDER_VARIABLE] = str(folder)
    try:
        yield folder
    finally:
        del os.environ[UPLOAD_FOLDER_VARIABLE]
        shutil.rmtree(folder, ignore_errors=True)


def open_socket(host: str, port: int) -> socket.socket:
    """Listens on an address, so that a taken port is known before a model is loaded.

    Raises:
        InputError: the port is taken, or the host is not this machine's.
    """
    name = host.strip("[]")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"cannot listen on {host}:{port} ({error}); choose another --port or --host",
            code=ErrorCode.conflict,
            field="--port",
            value=port,
        ) from error
    return listening


def build_app(service: GenerationService, hosts: AllowedHosts, uploads: Path) -> FastAPI:
    """Returns the application: the page behind its guard."""
    audience = Audience()
    demo = [resource_path(path) for path in DEMO_INPUTS]
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(RequestGuard, hosts=hosts, upload_folder=uploads, audience=audience)
    # Examples and videos are copied to the upload folder, from which alone files are served; Gradio copies only from
    # folders that are allowed.
    allowed = [service.output_folder.resolve(), *(path.parent for path in demo if path.is_absolute())]
    page = build_page(service, [list(map(str, demo))] if all(path.is_file() for path in demo) else [], audience)
    return gr.mount_gradio_app(
        app,
        page,
        path="/",
        run_history=False,
        allowed_paths=[str(folder) for folder in allowed],
        show_error=False,
        max_file_size=MAX_UPLOAD_BYTES,
        theme=gr.themes.Default(font=FONT_FAMILIES, font_mono=["monospace"]),
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        footer_links=["api"],
    )


def serve_page(service: GenerationService, listening: socket.socket, host: str, trusted: Collection[str] = ()) -> None:
    """Serves the page until the process is interrupted or terminated.

    Args:
        listening: the socket of `open_socket`.
        host: the address or name that it listens on.
        trusted: further host names under which the page may be reached.

    Raises:
        KeyboardInterrupt: the process was interrupted or terminated; a running generation has ended.
    """
    with upload_folder() as uploads:
        app = build_app(service, AllowedHosts(host, trusted), uploads)
        config = uvicorn.Config(
            app,
            log_level="warning",
            # Who asks is who is connected: the headers of a proxy can be forged.
            proxy_headers=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        server = uvicorn.Server(config)
        # In a thread, Uvicorn leaves the signals alone.
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="server", daemon=True)
        before = signal.signal(signal.SIGTERM, _interrupt)
        has_ended = True
        try:
            thread.start()
            port = listening.getsockname()[1]
            notify(f"the page is at http://{_address_to_open(host)}:{port}; Ctrl+C ends it")
            while thread.is_alive():
                thread.join(1)
        finally:
            signal.signal(signal.SIGTERM, before)
            server.should_exit = True
            has_ended = service.stop(STOP_SECONDS)
            thread.join(2 * STOP_SECONDS)
    if not has_ended:
        # One step of a large model may take a minute, and the interpreter cannot end while it runs.
        notify("interrupted")
        os._exit(130)


def _address_to_open(host: str) -> str:
    """Returns the host of an address that a browser on this machine can open."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.strip("[]"), host.strip("[]"))
    return f"[{name}]" if ":" in name else name


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
