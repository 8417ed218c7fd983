"""`fantasytalking app`: serves the web page."""

import os
from collections.abc import Sequence
from pathlib import Path

from fantasytalking.commands.invocation import Invocation
from fantasytalking.common.errors import InputError

DESCRIPTION = """Serves a web page that generates talking videos.

    {command}                                          nano, on http://127.0.0.1:7860
    {command} --config configs/wan14b/infer.yaml [key=value ...]

Only this machine can reach the page unless --host says otherwise. Whoever can reach it can use it, so do not open it to
the internet. Videos are generated one at a time; the last fifty stay in outputs/page.
"""


def main(arguments: Sequence[str], invocation: Invocation) -> None:
    """Parses the arguments and serves the page until it is interrupted."""
    parser = invocation.parser(DESCRIPTION)
    parser.add_path("--config", help="inference settings; default: configs/nano/infer.yaml")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 serves the whole network")
    parser.add_argument("--port", type=int, default=7860, help="port to listen on, 1 to 65535")
    parser.add_argument(
        "--trusted-host",
        action="append",
        default=[],
        metavar="NAME",
        help="further host name of the page, such as a reverse proxy's; may be repeated; default: none",
    )
    parser.add_argument(
        "--max-seconds", type=float, default=30.0, help="longest audio of a video in seconds, 1 to 3600"
    )
    parser.add_path("--output", default=Path("outputs/page"), help="folder of the videos")
    parser.add_settings("settings, as in num_inference_steps=20")
    given = parser.parse_intermixed_args(arguments)
    if not 1 <= given.port <= 65535:
        raise InputError(f"port is {given.port}; it must be 1 to 65535")
    if not 1 <= given.max_seconds <= 3600:
        raise InputError(f"max-seconds is {given.max_seconds:g}; it must be 1 to 3600")
    from fantasytalking.common.config import load_config, preset_path
    from fantasytalking.inference.config import InferConfig
    from fantasytalking.inference.console import silence_libraries

    config = load_config(InferConfig, given.config or preset_path("nano", "infer"), given.overrides)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    from fantasytalking.app.serve import open_socket, serve_page
    from fantasytalking.app.service import GenerationService

    silence_libraries()
    with open_socket(given.host, given.port) as listening:
        service = GenerationService(config, given.output, given.max_seconds)
        serve_page(service, listening, given.host, given.trusted_host)
