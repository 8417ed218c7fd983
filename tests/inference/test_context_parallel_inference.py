"""Several processes for one video: two over gloo give the single process's video, and a mistake ends all of them."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.multiprocessing as multiprocessing
from safetensors.torch import save_file

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.inference.config import InferConfig, Offload
from fantasytalking.inference.context_parallel import Coordinator, init_processes, run_worker
from fantasytalking.inference.job import GenerationJob
from fantasytalking.inference.model_sources import load_pipeline, resolve_model
from fantasytalking.inference.optimizations import OptimizationConfig, StepCache
from fantasytalking.media.audio_stream import AudioSampleQueue
from fantasytalking.pipeline import FantasyTalkingPipeline, Portrait
from tests.app.conftest import free_port
from tests.helpers.errors import raises_input_error
from tests.helpers.fork_server import FORK_SERVER, start_fork_server
from tests.helpers.paths import SCRIPTS
from tests.helpers.tiny_pipeline import driving_expression, random_speech
from tests.helpers.tiny_wan22 import load_a14b, save_a14b, save_adapters
from tests.pipeline.test_pipeline import latents
from tests.pipeline.test_streamer import stream


def videos(pipe: FantasyTalkingPipeline, portrait: Portrait) -> dict[str, torch.Tensor]:
    """One window, then several, each with all branches; then a stream."""
    made = {
        str(seconds): latents(pipe, portrait, seconds=seconds, prompt="a", num_inference_steps=2)
        for seconds in (0.5, 1.1)
    }
    pieces = [piece.frames for piece in stream(pipe, portrait, AudioSampleQueue([random_speech(1.1)]))]
    return made | {"stream": torch.from_numpy(np.concatenate(pieces))}


def job(config: InferConfig, driving_videos: tuple[Path, ...] = ()) -> GenerationJob:
    """A job of which only the model is used."""
    return GenerationJob(config, Path("x.png"), (Path("x.wav"),), Path("x.mp4"), driving_videos=driving_videos)


def hurried(saved: str, fast: str, folder: str) -> InferConfig:
    """A saved pipeline with a distilled adapter and a few-step LoRA."""
    return InferConfig(
        base=saved, adapter=fast, optimizations=OptimizationConfig(few_step_lora=f"{folder}/lora.safetensors")
    )


def hurried_video(pipe: FantasyTalkingPipeline, portrait: Portrait) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    return latents(pipe, portrait, seconds=0.5, prompt="a", num_inference_steps=4)


def guided_video(pipe: FantasyTalkingPipeline, portrait: Portrait) -> torch.Tensor:
    pipe.set_progress_bar_config(disable=True)
    return latents(pipe, portrait, seconds=1.1, prompt="a", num_inference_steps=3)


def driven_video(pipe: FantasyTalkingPipeline, people: Portrait) -> torch.Tensor:
    """Two people, one of whom speaks, over several windows, with all four branches in turn."""
    pipe.set_progress_bar_config(disable=True)
    drivers, options = (
        (driving_expression(30), driving_expression(30, seed=1)),
        {"text_guidance_scale": 4.0, "audio_guidance_scale": 6.0},
    )
    return latents(pipe, people, audio=(random_speech(1.1),), driving_video=drivers, batch_branches=False, **options)


def run_rank(
    rank: int, port: int, saved: str, fast: str, expressive: str, folder: str, *pictures: tuple[np.ndarray, ...]
) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK="0")
    torch.set_num_threads(1)
    if init_processes() > 0:
        (Path(folder) / "follower").write_text(str(run_worker()))
        return
    leader, plain = Coordinator(), InferConfig(base=saved)
    pipe = leader.load_pipeline(job(plain), resolve_model(plain))
    pipe.set_progress_bar_config(disable=True)
    one, two = (Portrait(*picture) for picture in pictures)
    made = videos(pipe, one)
    config = hurried(saved, fast, folder)
    pipe = leader.load_pipeline(job(config), resolve_model(config))
    made["hurried"] = hurried_video(pipe, one)
    seen = InferConfig(base=saved, expression_adapter=expressive)
    pipe = leader.load_pipeline(job(seen, (Path("x.mp4"),)), resolve_model(seen, has_driving_video=True))
    made["driven"] = driven_video(pipe, two)
    two_experts = InferConfig(base=f"{folder}/experts")
    pipe = leader.load_pipeline(job(two_experts), resolve_model(two_experts))
    made["experts"] = guided_video(pipe, one)
    torch.save(made, Path(folder) / "videos.pt")
    lacking = InferConfig(base=saved, adapter=f"{folder}/lacking")
    with pytest.raises(InputError, match=r"^process 1: .*lacking"):
        leader.load_pipeline(job(lacking), resolve_model(plain))
    leader.shutdown(2)


def test_two_processes_give_the_video_of_one_and_a_mistake_of_one_ends_both(
    pipe, driven, saved, fast, expressive, portrait, couple, tmp_path
):
    save_file({"blocks.1.ffn.net.2.diff_b": torch.ones(48)}, tmp_path / "lora.safetensors")
    experts_base = save_a14b(tmp_path / "base")
    experts = load_a14b(experts_base, save_adapters(experts_base, tmp_path / "adapters"))
    experts.save_pretrained(tmp_path / "experts")
    folders = (str(saved), str(fast), str(expressive), str(tmp_path))
    arguments = (free_port(), *folders, tuple(portrait), tuple(couple))
    start_fork_server()
    multiprocessing.start_processes(run_rank, start_method=FORK_SERVER.get_start_method(), args=arguments, nprocs=2)
    made = torch.load(tmp_path / "videos.pt", weights_only=True)
    config = hurried(str(saved), str(fast), str(tmp_path))
    alone = hurried_video(load_pipeline(config, resolve_model(config)), portrait)
    others = {"hurried": alone, "driven": driven_video(driven, couple), "experts": guided_video(experts, portrait)}
    for name, expected in {**videos(pipe, portrait), **others}.items():
        tolerance = 1 if name == "stream" else 1e-4  # uint8 pictures may round to a neighbour
        torch.testing.assert_close(made[name], expected, rtol=0, atol=tolerance)
    assert (tmp_path / "follower").read_text() == "2"


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (InferConfig(offload=Offload.group), "offload", "group"),
        (
            InferConfig(optimizations=OptimizationConfig(step_cache=StepCache.first_block)),
            "optimizations.step_cache",
            "first_block",
        ),
        (
            InferConfig(optimizations=OptimizationConfig(vram_limit_gib=12)),
            "optimizations.vram_limit_gib",
            12,
        ),
    ],
)
def test_what_several_processes_cannot_follow_is_refused(saved, config, field, value):
    with raises_input_error(ErrorCode.unsupported, field, value) as refused:
        Coordinator().load_pipeline(job(config), resolve_model(InferConfig(base=str(saved))))
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_torchrun_tells_a_mistake_once(saved, tmp_path):
    script = SCRIPTS / "infer.py"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node",
        "2",
        "--master-port",
        str(free_port()),
    ]
    began = time.monotonic()
    ended = subprocess.run(
        [
            *command,
            str(script),
            "--image",
            "MISSING.png",
            "--audio",
            "MISSING.wav",
            "--output",
            str(tmp_path / "a.mp4"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode != 0 and time.monotonic() - began < 300
    assert [line for line in ended.stderr.splitlines() if line.startswith("error: ")] == [
        "error: image 'MISSING.png' does not exist; give the path of a file"
    ]
    assert ended.stderr.count("exitcode  : 2") >= 1 and not list(tmp_path.iterdir())
