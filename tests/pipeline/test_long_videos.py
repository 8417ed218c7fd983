"""Videos of several windows: no seam in the latents, nothing missing or doubled, memory that does not grow."""

import torch

from fantasytalking.models.experts import Experts
from fantasytalking.pipeline.denoising import Denoiser
from fantasytalking.pipeline.guidance import GuidanceBranch, GuidanceConfig, GuidanceSchedule, guidance_at_step
from fantasytalking.pipeline.sliding_window import plan_windows
from fantasytalking.pipeline.video_conditions import VideoConditions
from tests.helpers.tiny_pipeline import random_speech
from tests.pipeline.test_pipeline import latents


class Spy:
    """Lets a pipeline run and keeps each window's conditions."""

    def __init__(self, pipe) -> None:
        self.calls: list[dict] = []
        self.pipe = pipe

    def __enter__(self) -> "Spy":
        def see(_, arguments, keywords, output):
            noisy, _, conditions = arguments
            self.calls.append(
                {"noisy": noisy, "conditions": conditions, "sample": output[0], "cache": keywords["cache"]}
            )

        self.hook = self.pipe.transformer.register_forward_hook(see, with_kwargs=True)
        return self

    def __exit__(self, *_) -> None:
        self.hook.remove()


def test_a_step_is_the_weighted_mix_of_its_windows(pipe, portrait):
    options = {"seconds": 1.9, "text_guidance_scale": 1.0, "audio_guidance_scale": 1.0, "num_inference_steps": 1}
    with Spy(pipe) as spy:
        made = latents(pipe, portrait, **options)
    total = made.shape[2]
    windows = plan_windows(total, 5, 2)
    assert len(spy.calls) == len(windows) > 3
    noise = torch.randn(made.shape, generator=torch.Generator().manual_seed(0))
    mixed = torch.zeros_like(made)
    for call, window in zip(spy.calls, windows, strict=True):
        torch.testing.assert_close(call["noisy"], noise[:, :, window.frame_indices])
        own = noise[:, :, window.frame_indices] - call["sample"]  # Euler's only step goes from sigma 1 to 0
        mixed.index_add_(2, window.frame_indices, own * window.blend_weights.view(1, 1, -1, 1, 1))
    torch.testing.assert_close(made, mixed, atol=1e-5, rtol=1e-5)


def test_every_window_sees_the_same_portrait_first(pipe, portrait):
    with Spy(pipe) as spy:
        latents(pipe, portrait, seconds=1.9, text_guidance_scale=1.0, audio_guidance_scale=1.0)
    first = spy.calls[0]["conditions"]
    for call in spy.calls:
        conditions = call["conditions"]
        assert all(
            getattr(conditions, name) is getattr(first, name)
            for name in ("image_latents", "image_embeds", "face_embeds")
        )
        assert bool((conditions.image_latents[:, :4, 0] == 1).all()) and not conditions.image_latents[:, :4, 1:].any()
        torch.testing.assert_close(conditions.audio_embeds[:, 0], first.audio_embeds[:, 0])
    steps = len(spy.calls) // 2
    for call in spy.calls[:steps]:
        torch.testing.assert_close(call["noisy"][:, :, 0], spy.calls[0]["noisy"][:, :, 0])


def test_every_window_hears_its_own_sound(pipe, portrait):
    """What is heard at a frame does not depend on the window it is in."""
    with Spy(pipe) as spy:
        made = latents(
            pipe, portrait, seconds=1.9, text_guidance_scale=1.0, audio_guidance_scale=1.0, num_inference_steps=1
        )
    heard: dict[int, torch.Tensor] = {}
    for call, window in zip(spy.calls, plan_windows(made.shape[2], 5, 2), strict=True):
        for position, frame in enumerate(window.frame_indices.tolist()):
            tokens = call["conditions"].audio_embeds[0, position]
            torch.testing.assert_close(heard.setdefault(frame, tokens), tokens)
    assert len(heard) == made.shape[2]
    assert all(not torch.equal(heard[frame], heard[frame + 1]) for frame in range(made.shape[2] - 1))


def test_one_window_and_many_agree_where_the_model_is_blind_to_time():
    """With a model that looks at each frame by itself, windows must leave no trace at all."""

    class PerFrame(torch.nn.Module):
        distillation = None

        def cache_context(self, _):
            return torch.no_grad()

        def forward(self, noisy, timestep, conditions, cache, return_dict, attention_kwargs):
            louder = conditions.audio_embeds.mean(dim=(2, 3))[:, None, :, None, None]
            return (noisy * 0.5 + conditions.condition_scale[:, :1, None, None, None] * louder,)

    generator = torch.Generator().manual_seed(0)
    total = 40
    from fantasytalking.audio_windows import AudioWindows

    def conditions(length: int) -> VideoConditions:
        return VideoConditions(
            prompt_embeds=torch.ones(1, 2, 3),
            negative_prompt_embeds=torch.zeros(1, 2, 3),
            image_embeds=torch.zeros(1, 2, 3),
            image_latents=torch.zeros(1, 20, length, 4, 4),
            audio_windows=audio,
            face_embeds=torch.zeros(1, 1, 4),
            motion_intensity=torch.full((1, 2), 0.5),
            face_scale=1.0,
            temporal_stride=4,
        )

    audio = AudioWindows(torch.randn(1, total, 3, 4, generator=generator), torch.ones(1, total, 3, dtype=torch.bool))
    noisy = torch.randn(1, 16, total, 4, 4, generator=generator)
    guidance = guidance_at_step(GuidanceConfig(GuidanceSchedule(4, 4), GuidanceSchedule(6, 6)), 0, 1)
    assert GuidanceBranch(True, True) in guidance.branches
    results = []
    for length, overlap in ((40, 1), (9, 3), (9, 4), (5, 1), (21, 10)):
        windows = plan_windows(total, length, overlap)
        experts = Experts(PerFrame())  # type: ignore[arg-type]
        denoiser = Denoiser(experts, conditions(length), windows, batch_branches=False, on_window_done=lambda: None)
        results.append(denoiser.predict(noisy, torch.tensor(500.0), guidance))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], atol=1e-5, rtol=1e-5)


def test_what_is_held_does_not_grow_with_the_length(pipe, portrait):
    held = []
    for seconds in (1.5, 6.0):
        with Spy(pipe) as spy:
            latents(pipe, portrait, seconds=seconds, audio=random_speech(seconds), num_inference_steps=1)
        caches = {id(call["cache"]): call["cache"] for call in spy.calls}
        assert len(caches) == 1
        (cache,) = caches.values()
        held.append(cache.nbytes())
        assert max(call["noisy"].shape[2] for call in spy.calls) == 5
    assert held[0] == held[1] > 0
