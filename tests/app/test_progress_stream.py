"""Frames are shown while later ones are made, the finished video is as ever, and whoever leaves ends the work."""

import asyncio
import json
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("gradio")
pytest.importorskip("mediapipe")

from fantasytalking.app.progress_stream import POLL_SECONDS, ClientDisconnectedError, ProgressSnapshot, stream_progress
from fantasytalking.app.request import PageRequest
from fantasytalking.app.service import GenerationResult, GenerationService
from fantasytalking.checkpoints.adapter import load_adapter, read_adapter_config, save_adapter
from fantasytalking.checkpoints.lora import add_lora
from fantasytalking.inference.config import InferConfig
from fantasytalking.media import probe, read_video
from fantasytalking.perception.mouth_curve import MouthCurve
from fantasytalking.pipeline import FantasyTalkingPipeline
from tests.app.conftest import Server, wait_until
from tests.app.test_page import ASKED
from tests.helpers.tiny_pipeline import LORA

FRAME = np.zeros((4, 4, 3), np.uint8)
MADE = GenerationResult(
    Path("video.mp4"), Path("video.json"), "made", MouthCurve(np.zeros(1), np.zeros(1), np.zeros(1))
)


@pytest.fixture(scope="module")
def studio(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> GenerationService:
    config = InferConfig(base=str(saved), sizes=["32x32"], window_frames=9, overlap_frames=4, num_inference_steps=2)
    config.optimizations.step_cache = type(config.optimizations.step_cache)("first_block")
    return GenerationService(config, tmp_path_factory.mktemp("made"), 2.0)


def test_speech_is_as_without_the_adapter_that_drives(
    studio: GenerationService, saved: Path, expressive: Path, tmp_path: Path
):
    """One that brings a LoRA, as nano's does, would change it."""
    adapter = tmp_path / "adapter"
    shutil.copytree(expressive, adapter)
    model = FantasyTalkingPipeline.from_pretrained(saved).transformer
    load_adapter(model, expressive)
    add_lora(model, LORA, torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.fill_(0.1)
    described = replace(read_adapter_config(expressive), lora=LORA.to_dict())
    save_adapter(model, tmp_path / "brought", described)
    for file in (tmp_path / "brought").iterdir():
        shutil.copyfile(file, adapter / file.name)
    config = replace(studio.config, expression_adapter=str(adapter))
    with_lora = GenerationService(config, tmp_path / "made", 2.0)
    assert with_lora.supports_driving
    request = asked(stream=False)
    videos = [maker.generate(request, lambda phase, share: None).video for maker in (studio, with_lora)]
    assert videos[0].read_bytes() == videos[1].read_bytes()


def asked(**changes: Any) -> PageRequest:
    return PageRequest(
        **{**ASKED, "stream": True, "portrait": str(ASKED["portrait"]), "audio": str(ASKED["audio"])} | changes
    )


def test_frames_are_shown_before_the_last_window_is_made(studio: GenerationService):
    told: list[tuple[str, float]] = []
    shown: list[np.ndarray] = []

    def show(start: float, frame: np.ndarray) -> None:
        told.append(("show", start))
        shown.append(frame)

    made = studio.generate(asked(), lambda phase, share: told.append((phase, share)), show)
    names = [name for name, _ in told]
    assert names.index("denoise") < names.index("show") < len(names) - 1 - names[::-1].index("denoise")
    assert [start for name, start in told if name == "show"] == pytest.approx(np.arange(15) / 25)
    video = read_video(made.video).frames
    assert video.shape == (15, 32, 32, 3)
    # H.264 changes each picture a little; another frame of the video would be further away.
    assert np.abs(video.astype(int) - np.stack(shown)).mean() < 12
    assert "first frame after" in made.summary
    record = json.loads(made.record.read_text())
    assert record["config"]["stream"] is True and record["result"]["frames"] == 15
    assert len(made.mouth_curve.times) == 15


@pytest.mark.parametrize("stream", [True, False])
def test_a_job_that_is_ended_leaves_nothing_and_changes_nothing(studio: GenerationService, stream: bool):
    def told(phase: str, share: float) -> None:
        if phase == "denoise":
            raise ClientDisconnectedError("after the first step")

    before = sorted(studio.output_folder.rglob("*"))
    with pytest.raises(ClientDisconnectedError):
        studio.generate(asked(stream=stream), told)
    assert sorted(studio.output_folder.rglob("*")) == before
    after, again = (studio.generate(asked(stream=stream, seed=5), lambda phase, share: None) for _ in range(2))
    assert after.video.read_bytes() == again.video.read_bytes()


def looks_of(make: Callable[..., GenerationResult], most: int = 1000) -> list[ProgressSnapshot | GenerationResult]:
    async def collect() -> list[ProgressSnapshot | GenerationResult]:
        seen: list[ProgressSnapshot | GenerationResult] = []
        async with aclosing(stream_progress(make)) as looks:
            async for look in looks:
                seen.append(look)
                if len(seen) == most:
                    break
        return seen

    return asyncio.run(collect())


def test_a_few_pictures_a_second_are_seen_however_many_there_are():
    begin = time.perf_counter()

    def make(tell: Callable[..., None], show: Callable[..., None]) -> GenerationResult:
        tell("denoise", 0.5)
        for number in range(200):
            show(number / 25, FRAME + number)
            time.sleep(POLL_SECONDS / 50)
        return MADE

    *looks, last = looks_of(make)
    pictures = [look.frame for look in looks if isinstance(look, ProgressSnapshot) and look.frame is not None]
    assert last == MADE and 2 <= len(pictures) <= (time.perf_counter() - begin) / POLL_SECONDS
    values = [int(picture[0, 0, 0]) for picture in pictures]
    assert values == sorted(set(values)), "every picture is newer than the one before"
    assert {
        look.first_frame_latency for look in looks if isinstance(look, ProgressSnapshot) and look.frame is not None
    } != {None}
    assert (
        len(
            {
                look.first_frame_latency
                for look in looks
                if isinstance(look, ProgressSnapshot) and look.first_frame_latency is not None
            }
        )
        == 1
    )


def test_no_picture_is_seen_twice():
    def make(tell: Callable[..., None], show: Callable[..., None]) -> GenerationResult:
        show(0.0, FRAME)
        time.sleep(3.5 * POLL_SECONDS)
        return MADE

    looks = [look for look in looks_of(make) if isinstance(look, ProgressSnapshot)]
    assert len(looks) >= 2 and [look.frame is None for look in looks] == [False] + [True] * (len(looks) - 1)


def test_who_leaves_ends_the_work():
    ended = threading.Event()

    def make(tell: Callable[..., None], show: Callable[..., None]) -> GenerationResult:
        try:
            while True:
                tell("denoise", 0.1)
                time.sleep(0.01)
        except ClientDisconnectedError:
            ended.set()
            raise

    assert len(looks_of(make, most=2)) == 2
    assert ended.wait(5)


@pytest.fixture(scope="module")
def client(server: Server) -> Any:
    from gradio_client import Client

    return Client(server.url, verbose=False)


def given(**changes: Any) -> dict[str, Any]:
    from gradio_client import handle_file

    return {**ASKED, "stream": True, "max_seconds": 2, "num_inference_steps": 10, **changes} | {
        name: handle_file(str(ASKED[name])) for name in ("portrait", "audio")
    }


def test_the_page_shows_pictures_then_the_video(client: Any):
    job = client.submit(**given(), api_name="/talk")
    outputs = list(job)
    pictures = [output[4]["value"] for output in outputs if output[4].get("value")]
    assert len(set(pictures)) >= 2, "several pictures came"
    assert any("s of video shown, first frame after" in str(output[5]) for output in outputs[:-1])
    video, line, plot, record, picture, *_ = job.result()
    assert "first frame after" in line and picture["visible"] is False
    assert plot["type"] == "matplotlib" and json.loads(Path(record).read_text())["config"]["stream"] is True
    assert probe(video).frames == 50


def test_a_page_that_is_closed_ends_its_job(server: Server, client: Any):
    """Over HTTP as a browser does it: join the queue, read what comes, and hang up in the middle.

    A tiny model's video made whole would be done before this is noticed; `stream_progress` is tried above for both.
    """
    httpx = pytest.importorskip("httpx")
    folders = set(server.output.glob("made-*"))

    def uploaded(path: Path) -> dict[str, Any]:
        files = {"files": (path.name, path.read_bytes())}
        (place,) = httpx.post(f"{server.url}/gradio_api/upload", files=files, timeout=60).json()
        return {"path": place, "meta": {"_type": "gradio.FileData"}, "orig_name": path.name}

    values = {**ASKED, "num_inference_steps": 50, "max_seconds": 2, "stream": True}
    values |= {name: uploaded(values[name]) for name in ("portrait", "audio")}
    config = httpx.get(f"{server.url}/config", timeout=60).json()
    (number,) = (item["id"] for item in config["dependencies"] if item["api_name"] == "talk")
    job = {"data": [*values.values(), None], "fn_index": number, "session_hash": "closed"}
    assert httpx.post(f"{server.url}/gradio_api/queue/join", json=job, timeout=60).is_success
    address = f"{server.url}/gradio_api/queue/data"
    with httpx.stream("GET", address, params={"session_hash": job["session_hash"]}, timeout=60) as answer:
        for line in answer.iter_lines():
            if '"process_generating"' in line:
                break
            assert "process_completed" not in line, line
    wait_until(lambda: set(server.output.glob("made-*")) == folders)
    video, *_ = client.predict(**given(num_inference_steps=2, max_seconds=0.6), api_name="/talk")
    assert probe(video).frames == 15, "the next one in the queue has its turn"
