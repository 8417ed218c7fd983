"""Denoises one video by our pipeline and by diffusers' own, and keeps the latents after every step of both."""

from typing import Any

import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanImageToVideoPipeline
from torch import Tensor

from fantasytalking.encoders import wan
from fantasytalking.pipeline import FantasyTalkingPipeline, Portrait
from fantasytalking.pipeline.schedulers import SchedulerType, make_scheduler
from tests.helpers.tiny_components import TEXT_DIM
from tests.helpers.tiny_pipeline import random_speech

SECONDS, NUM_FRAMES, NUM_LATENT_FRAMES = 0.36, 9, 3
NUM_STEPS = 4


def latents_of_both(
    monkeypatch: pytest.MonkeyPatch,
    ours: FantasyTalkingPipeline,
    portrait: Portrait,
    scales: tuple[float, float | None],
    **parts: Any,
) -> tuple[list[Tensor], list[Tensor]]:
    """Returns the latents after each step, and the result, of ours and of diffusers.

    Args:
        ours: with fresh modules, which add nothing.
        scales: of text guidance, and of the low-noise expert.
        parts: transformers and settings of diffusers' pipeline.
    """
    monkeypatch.setattr(wan, "MAX_FULL_CLIP_PIXELS", 0)  # encode in the same pieces as diffusers
    ours.scheduler = make_scheduler(SchedulerType.unipc)
    theirs = WanImageToVideoPipeline(
        tokenizer=ours.tokenizer,
        text_encoder=ours.text_encoder,
        vae=ours.vae,
        scheduler=UniPCMultistepScheduler.from_config(ours.scheduler.config),
        **parts,
    )
    theirs.set_progress_bar_config(disable=True)
    steps: dict[str, list[Tensor]] = {"ours": [], "theirs": []}

    def keep(name: str) -> Any:
        def callback(pipe: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            steps[name].append(tensors["latents"].clone())
            return {}

        return callback

    height, width = (size // ours.vae.config.scale_factor_spatial for size in portrait.pixels.shape[:2])
    shape = (1, ours.vae.config.z_dim, NUM_LATENT_FRAMES, height, width)
    prompt, negative = (torch.randn(1, 8, TEXT_DIM, generator=torch.manual_seed(seed)) for seed in (3, 4))
    arguments: dict[str, Any] = {
        "prompt_embeds": prompt,
        "negative_prompt_embeds": negative,
        "num_inference_steps": NUM_STEPS,
        "latents": torch.randn(shape, generator=torch.manual_seed(5)),
        "output_type": "latent",
    }
    expected = theirs(
        image=torch.from_numpy(portrait.pixels.copy()).permute(2, 0, 1)[None] / 127.5 - 1,
        height=portrait.pixels.shape[0],
        width=portrait.pixels.shape[1],
        num_frames=NUM_FRAMES,
        guidance_scale=scales[0],
        guidance_scale_2=scales[1],
        callback_on_step_end=keep("theirs"),
        **arguments,
    ).frames
    found = ours(
        portrait,
        random_speech(SECONDS),
        text_guidance_scale=scales[0],
        text_guidance_scale_2=scales[1],
        audio_guidance_scale=1.0,
        face_scale=0.0,
        batch_branches=False,
        callback_on_step_end=keep("ours"),
        **arguments,
    ).frames
    assert len(steps["ours"]) == len(steps["theirs"]) == NUM_STEPS
    return [*steps["ours"], found], [*steps["theirs"], expected]


def assert_equal_steps(ours: list[Tensor], theirs: list[Tensor], is_guided: bool) -> None:
    """Without guidance bit for bit; guided predictions are added in another order."""
    for mine, reference in zip(ours, theirs, strict=True):
        if is_guided:
            torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-4)
        else:
            assert torch.equal(mine, reference)
