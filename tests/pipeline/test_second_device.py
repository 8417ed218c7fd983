"""Nothing is left behind on the CPU when the model lies elsewhere, and the video is the same."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from fantasytalking.media.audio_stream import AudioSampleQueue
from fantasytalking.models.diffusers_internals import execution_device
from fantasytalking.models.presets import load_model_config
from fantasytalking.pipeline import FantasyTalkingPipeline, GenerationControls, Portrait
from fantasytalking.pipeline.schedulers import SchedulerType, make_scheduler
from tests.helpers.second_device import SecondDeviceTensor, second_device
from tests.helpers.tiny_pipeline import driving_expression, load_tiny_pipeline, random_speech

Make = Callable[[FantasyTalkingPipeline], np.ndarray]
HALF = torch.bfloat16
LONG = {"prompt": "hello", "num_inference_steps": 1, "window_frames": 17, "overlap_frames": 8}


def test_the_device_refuses_to_mix():
    with second_device() as device:
        far = torch.ones(3).to(device)
        assert isinstance(far, SecondDeviceTensor) and float((far + 1).cpu()[0]) == 2
        with pytest.raises(RuntimeError, match="mixes devices"):
            far + torch.ones(3)


def moved(pipe: FantasyTalkingPipeline, device: torch.device) -> None:
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.to(device)


def agree(open_one: Callable[[], FantasyTalkingPipeline], make: Make) -> None:
    """Both devices give the same pictures, but for roundings, since the CPU has ways of its own."""
    here, pipe = make(open_one()), open_one()
    with second_device() as device:
        moved(pipe, device)
        assert execution_device(pipe) == device
        there = make(pipe)
    assert here.std() > 0.01
    np.testing.assert_allclose(there, here, atol=0.004)  # one grey level


@pytest.fixture
def open_driven(base: Path, adapters: Path, expressive: Path) -> Callable[[], FantasyTalkingPipeline]:
    return lambda: load_tiny_pipeline(base, adapters / "all", expressive)


@pytest.mark.parametrize("batch_branches", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_long_video_with_sound_and_driver(open_driven, portrait: Portrait, batch_branches: bool):
    def make(pipe: FantasyTalkingPipeline) -> np.ndarray:
        generator = torch.Generator().manual_seed(0)
        options = {**LONG, "negative_prompt": "bad", "color_rescale": 0.5, "batch_branches": batch_branches}
        made = pipe(
            portrait,
            random_speech(0.8),
            driving_video=driving_expression(20),
            motion=0.7,
            generator=generator,
            **options,
        )
        return np.asarray(made.frames)

    agree(open_driven, make)


def test_two_people_with_a_sound_each_by_the_other_sampler(open_driven, couple: Portrait):
    def make(pipe: FantasyTalkingPipeline) -> np.ndarray:
        pipe.scheduler = make_scheduler(SchedulerType.unipc, 5.0)
        sounds = [random_speech(0.5), random_speech(0.4, seed=1)]
        options = {**LONG, "num_inference_steps": 2}
        return np.asarray(pipe(couple, sounds, generator=torch.Generator().manual_seed(0), **options).frames)

    agree(open_driven, make)


def test_a_stream_of_a_distilled_model(saved: Path, fast: Path, portrait: Portrait):
    controls = GenerationControls(num_inference_steps=4, window_frames=17, overlap_frames=8)

    def make(pipe: FantasyTalkingPipeline) -> np.ndarray:
        generator = torch.Generator().manual_seed(3)
        pieces = list(pipe.stream(portrait, AudioSampleQueue([random_speech(0.8)]), controls, generator=generator))
        return np.concatenate([piece.frames for piece in pieces]) / 255.0

    agree(lambda: FantasyTalkingPipeline.from_pretrained(saved, adapter=fast), make)


def test_half_precision_off_the_cpu(base: Path, adapters: Path, portrait: Portrait):
    """On a CPU the pipeline attends in float32 and fuses its blocks; elsewhere bfloat16 goes another way."""

    def make(pipe: FantasyTalkingPipeline) -> np.ndarray:
        made = pipe(portrait, random_speech(0.5), motion=0.7, generator=torch.Generator().manual_seed(0), **LONG)
        return np.asarray(made.frames)

    here = make(load_tiny_pipeline(base, adapters / "all"))
    pipe = FantasyTalkingPipeline.from_base(
        base,
        adapters / "all",
        module_config=asdict(load_model_config("nano").portrait),
        text_length=12,
        torch_dtype=HALF,
    )
    with second_device() as device:
        moved(pipe, device)
        there = make(pipe)
    assert pipe.transformer.dtype == HALF
    assert 0 < np.abs(there - here).mean() < 0.05 * here.std()
