"""The page in this process, with a tiny model whose every module counts."""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fantasytalking.common.config import CONFIGS_FOLDER, load_config
from fantasytalking.inference.config import InferConfig
from fantasytalking.portrait_world.corpus.demo import DEMO_FOLDER, DEMO_SPEECH_FILE
from tests.helpers.tiny_pipeline import adapters, base, expressive, pipe, saved

if TYPE_CHECKING:
    from fantasytalking.app.service import GenerationService

__all__ = ["adapters", "base", "expressive", "pipe", "saved"]

SERVER_CONFIG = """
base: {base}
expression_adapter: {expressive}
sizes: [32x32, 64x32]
window_frames: 9
overlap_frames: 4
steps: 2
prompt: A person is talking.
note: A model for tests.
"""
MAX_PAGE_SECONDS = 2.0


@dataclass(frozen=True)
class Server:
    """A running page."""

    port: int
    output: Path
    """Folder of its videos."""
    uploads: Path
    """Folder of its uploads, and of what it serves."""
    service: "GenerationService"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(CONFIGS_FOLDER.parent / "scripts" / "app.py"), *map(str, arguments)]


@pytest.fixture(scope="session")
def settings(saved: Path, expressive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of the page as a file."""
    path = tmp_path_factory.mktemp("settings") / "infer.yaml"
    path.write_text(SERVER_CONFIG.format(base=saved, expressive=expressive))
    return path


@pytest.fixture(scope="session")
def server(
    settings: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Server]:
    pytest.importorskip("gradio")
    pytest.importorskip("mediapipe")
    import uvicorn

    from fantasytalking.app import examples as app_examples
    from fantasytalking.app.hosts import AllowedHosts
    from fantasytalking.app.serve import UPLOAD_FOLDER_VARIABLE, build_app, open_socket, upload_folder
    from fantasytalking.app.service import GenerationService

    folder = tmp_path_factory.mktemp("page")
    os.environ[UPLOAD_FOLDER_VARIABLE] = str(folder / "uploads")
    service = GenerationService(load_config(InferConfig, settings, []), folder / "made", MAX_PAGE_SECONDS)
    with upload_folder() as uploads, open_socket("127.0.0.1", 0) as listening:
        (uploads / "examples").mkdir()
        with pytest.MonkeyPatch.context() as patch:
            if not request.config.getoption("--browser"):
                patch.setattr(app_examples, "DRIVER_FRAMES", 5)  # only a browser gives it to the model
            examples = app_examples.render_examples(uploads / "examples")
        service.warm_up(examples.speech[0].portrait, DEMO_FOLDER / DEMO_SPEECH_FILE)
        app = build_app(service, AllowedHosts("127.0.0.1"), uploads, examples)
        running = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        wait_until(lambda: running.started)
        yield Server(listening.getsockname()[1], folder / "made", uploads, service)
        running.should_exit = True
        thread.join(30)
    del os.environ[UPLOAD_FOLDER_VARIABLE]


def wait_until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
