#!/usr/bin/env python
"""The page: a portrait and speech become a talking video in a browser.

    python scripts/app.py                                          nano, on http://127.0.0.1:7860
    python scripts/app.py --config configs/wan14b/infer.yaml [key=value ...]

Only this machine can reach it unless --host says otherwise; whoever can reach it can use it, so do not open it to the
world. Videos are made one at a time and stay in outputs/page, the last fifty of them.
"""

import argparse
import os
from pathlib import Path

from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import InputError, exit_cleanly


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, help="inference settings; default: configs/nano/infer.yaml")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 = everyone on the network")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--max-seconds", type=float, default=30.0, help="of sound, for one video")
    parser.add_argument("--output", type=Path, default=Path("outputs/page"), help="folder of the videos")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, as in steps=20")
    options = parser.parse_intermixed_args()
    if not 1 <= options.port <= 65535:
        raise InputError(f"port is {options.port}; it must be 1 to 65535")
    if not 1 <= options.max_seconds <= 3600:
        raise InputError(f"max-seconds is {options.max_seconds:g}; it must be 1 to 3600")
    from fantasytalking.inference.console import silence_libraries
    from fantasytalking.pipeline.config import InferConfig

    config = load_config(InferConfig, options.config or preset_path("nano", "infer"), options.overrides)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    from fantasytalking.app.serve import serve_page
    from fantasytalking.app.service import GenerationService

    silence_libraries()
    serve_page(GenerationService(config, options.output, options.max_seconds), options.host, options.port)


if __name__ == "__main__":
    exit_cleanly(main)
