"""Serves the web page."""

import gradio as gr

from fantasytalking.app.page import build_page
from fantasytalking.app.service import GenerationService
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.resources import resource_path

MAX_UPLOAD_SIZE = "64mb"
"""Size limit of one uploaded file."""
FONT_FAMILIES = ["system-ui", "sans-serif"]
"""Fonts of the visitor's system: none is downloaded."""
DEMO_INPUTS = ("data/demo/portrait.png", "data/demo/speech.wav")


def serve_page(service: GenerationService, host: str, port: int) -> None:
    """Serves the page until the process is interrupted.

    Raises:
        InputError: the port is taken, or the host is not this machine's.
    """
    demo = [resource_path(path) for path in DEMO_INPUTS]
    # Only what gradio may read can be an example: files below the working directory or in a folder that is allowed.
    allowed = [service.output_folder.resolve(), *(path.parent for path in demo if path.is_absolute())]
    page = build_page(service, [list(map(str, demo))] if all(path.is_file() for path in demo) else [])
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            max_file_size=MAX_UPLOAD_SIZE,
            allowed_paths=[str(folder) for folder in allowed],
            theme=gr.themes.Default(font=FONT_FAMILIES, font_mono=["monospace"]),
            ssr_mode=False,
            enable_monitoring=False,
            footer_links=["api"],
        )
    except OSError as error:
        raise InputError(
            f"cannot listen on {host}:{port} ({error}); choose another --port or --host",
            code=ErrorCode.conflict,
            field="--port",
            value=port,
        ) from error
