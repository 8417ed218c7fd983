"""Serves the page."""

from pathlib import Path

import gradio as gr

from fantasytalking.app.page import build_page
from fantasytalking.app.service import GenerationService
from fantasytalking.common.errors import InputError

MAX_UPLOAD_SIZE = "64mb"
"""Of one file."""
FONT_FAMILIES = ["system-ui", "sans-serif"]
"""No font is fetched from elsewhere."""
DEMO_INPUTS = ("data/demo/portrait.png", "data/demo/speech.wav")


def serve_page(service: GenerationService, host: str, port: int) -> None:
    """Until it is interrupted.

    Raises:
        InputError: the port is taken, or the host is not this machine's.
    """
    examples = [list(DEMO_INPUTS)] if all(Path(path).is_file() for path in DEMO_INPUTS) else []
    page = build_page(service, examples)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            share=False,
            max_file_size=MAX_UPLOAD_SIZE,
            allowed_paths=[str(service.output_folder.resolve())],
            theme=gr.themes.Default(font=FONT_FAMILIES, font_mono=["monospace"]),
            ssr_mode=False,
            enable_monitoring=False,
            footer_links=["api"],
        )
    except OSError as error:
        raise InputError(f"cannot listen on {host}:{port} ({error}); choose another --port or --host") from error
