"""Builds a prepared corpus: feature files and records with seeded random values."""

from dataclasses import replace
from pathlib import Path

import torch

from fantasytalking.data.features import ClipFeatures, save_features
from fantasytalking.data.manifest import ClipRecord


def random_features(seed: int, frames: int = 9, height: int = 32, width: int = 48, fps: float = 25.0) -> ClipFeatures:
    generator = torch.Generator().manual_seed(seed)
    size = (1 + (frames - 1) // 4, height // 8, width // 8)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return ClipFeatures(
        latents=normal(16, *size).half(),
        first_frame_latents=normal(16, *size).half(),
        text=normal(5 + seed % 3, 12).half(),
        image=normal(17, 10).half(),
        audio=normal((round(frames / fps * 16000) - 400) // 320 + 1, 24).half(),
        frame_times=torch.arange(frames, dtype=torch.float64) / fps,
        face=torch.nn.functional.normalize(normal(1, 512)),
        lip_mask_causal=torch.rand(*size, generator=generator).half(),
        lip_mask_trilinear=torch.rand(*size, generator=generator).half(),
    )


def with_driven_faces(features: ClipFeatures, people: int, seed: int = 0, speakers: bool = False) -> ClipFeatures:
    """The same clip with the faces, expressions and boxes of `people` people from left to right."""
    generator = torch.Generator().manual_seed(seed)
    frames, (height, width) = len(features.frame_times), features.latents.shape[-2:]
    edges = torch.linspace(0, 8 * width, people + 1)
    box = torch.stack([edges[:-1], torch.zeros(people), edges[1:], torch.full((people,), 8.0 * height)], dim=1)
    speech = torch.randn(people, *features.audio.shape, generator=generator).half()
    return replace(
        features,
        face=torch.nn.functional.normalize(torch.randn(people, 512, generator=generator)),
        expression=torch.randn(people, frames, 36, generator=generator).half(),
        expression_present=torch.rand(people, frames, generator=generator) < 0.9,
        boxes=box[:, None].repeat(1, frames, 1),
        speakers=speech if speakers else None,
    )


def record(number: int, frames: int = 9, height: int = 32, width: int = 48, fps: float = 25.0) -> ClipRecord:
    return ClipRecord(
        clip=f"clip{number:03d}",
        video=f"videos/{number:03d}.mp4",
        start=0.5 * number,
        duration=frames / fps,
        fps=fps,
        frames=frames,
        width=width,
        height=height,
        expression=0.25,
        body=0.75,
        expression_measure=0.01,
        body_measure=0.02,
        face_size=20.0,
        features=f"features/clip{number:03d}.safetensors",
    )


def save_clip(
    folder: Path, number: int, frames: int = 9, height: int = 32, width: int = 48, fps: float = 25.0
) -> ClipRecord:
    clip = record(number, frames, height, width, fps)
    save_features(random_features(number, frames, height, width, fps), folder / clip.features, "abc")
    return clip
