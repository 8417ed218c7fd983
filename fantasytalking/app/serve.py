"""Serves the web page."""

import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import gradio as gr
import uvicorn
from fastapi import FastAPI

from fantasytalking.app.audience import Audience
from fantasytalking.app.examples import Example, Examples, render_examples
from fantasytalking.app.guard import RequestGuard
from fantasytalking.app.hosts import AllowedHosts
from fantasytalking.app.page import CSS_FILE, FAVICON_FILE, build_page
from fantasytalking.app.service import GenerationService, ServerStoppedError
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.limits import MAX_UPLOAD_BYTES
from fantasytalking.inference.console import notify

FONT_FAMILIES = ["system-ui", "sans-serif"]
"""Fonts of the visitor's system: none is downloaded."""
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


def build_app(service: GenerationService, hosts: AllowedHosts, uploads: Path, examples: Examples) -> FastAPI:
    """Returns the application: the page behind its guard."""
    audience = Audience()
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(RequestGuard, hosts=hosts, upload_folder=uploads, audience=audience)
    return gr.mount_gradio_app(
        app,
        build_page(service, examples, audience),
        path="/",
        run_history=False,
        # Gradio copies videos from there to the upload folder, from which alone files are served.
        allowed_paths=[str(service.output_folder.resolve())],
        show_error=False,
        max_file_size=MAX_UPLOAD_BYTES,
        theme=_theme(),
        css_paths=[CSS_FILE],
        favicon_path=str(FAVICON_FILE),
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        footer_links=["api"],
    )


def _theme() -> gr.themes.Base:
    """Returns a theme without fonts of others, in which all text has a contrast of at least 4.5:1."""
    return gr.themes.Default(font=FONT_FAMILIES, font_mono=["monospace"]).set(
        body_text_color_subdued="#4b5563",
        body_text_color_subdued_dark="#cbd5e1",
        block_info_text_color="#4b5563",
        block_info_text_color_dark="#cbd5e1",
        block_label_text_color="#374151",
        block_label_text_color_dark="#e2e8f0",
        block_title_text_color="#374151",
        block_title_text_color_dark="#e2e8f0",
        input_placeholder_color="#6b7280",
        input_placeholder_color_dark="#cbd5e1",
        button_primary_background_fill="#9a3412",
        button_primary_background_fill_dark="#9a3412",
        button_primary_background_fill_hover="#7c2d12",
        button_primary_background_fill_hover_dark="#7c2d12",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
        button_cancel_background_fill="#b91c1c",
        button_cancel_background_fill_dark="#b91c1c",
        button_cancel_background_fill_hover="#991b1b",
        button_cancel_background_fill_hover_dark="#991b1b",
        button_cancel_text_color="#ffffff",
        button_cancel_text_color_dark="#ffffff",
        slider_color="#9a3412",
        slider_color_dark="#fb923c",
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
        examples = render_examples(Path(tempfile.mkdtemp(prefix="examples-", dir=uploads)))
        app = build_app(service, AllowedHosts(host, trusted), uploads, examples)
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
            threading.Thread(target=_warm_up, args=(service, examples.speech[0]), daemon=True).start()
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


def _warm_up(service: GenerationService, example: Example) -> None:
    assert example.audio is not None
    with suppress(ServerStoppedError):
        service.warm_up(example.portrait, example.audio)


def _address_to_open(host: str) -> str:
    """Returns the host of an address that a browser on this machine can open."""
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.strip("[]"), host.strip("[]"))
    return f"[{name}]" if ":" in name else name


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
