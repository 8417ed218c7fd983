"""A seeded tiny corpus of random features in the on-disk layout, and a tiny base to train on it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from fantasytalking.data.features import ClipFeatures, save_features
from fantasytalking.data.manifest import ClipRecord, read_manifest, write_records
from tests.helpers.tiny_transformer import save_base

TEXT_DIM, IMAGE_DIM, AUDIO_DIM = 64, 128, 128
FRAMES = 9
EXPRESSION_DIMS = (2, 2, 3, 4)
PORTRAIT_STAGE: dict[str, Any] = {
    "stage__name": "portrait",
    "stage__alignment": "frame",
    "stage__trainable": "[expression]",
    "stage__dropout__audio": 1,
    "stage__expression__dims": list(EXPRESSION_DIMS),
    "stage__expression__token_dim": 24,
    "stage__expression__width": 64,  # released heads of 64
    "stage__expression__depth": 1,
    "stage__expression__heads": 1,
    "stage__loss__sigmas__distribution": "logit_normal",
}
"""A portrait stage on `make_driven_corpus`, as changes of `config_overrides`."""


def make_corpus(
    folder: Path,
    clips: int = 8,
    sizes: tuple[tuple[int, int], ...] = ((64, 64),),
    channels: int = 16,
    spatial_stride: int = 8,
    temporal_stride: int = 4,
    image: bool = True,
    text_dim: int | None = None,
) -> Path:
    """Writes `clips` clips, spread over `sizes` (width, height in pixels), and their manifest. Returns its path.

    Args:
        channels, spatial_stride, temporal_stride: of the latents.
        image: whether clips have CLIP tokens.
        text_dim: width of the prompts' states; None: `TEXT_DIM`.
    """
    records = []
    for number in range(clips):
        width, height = sizes[number % len(sizes)]
        name = f"clip{number:03d}"
        features = _features(
            number, width // spatial_stride, height // spatial_stride, channels, text_dim, temporal_stride
        )
        features = features if image else replace(features, image=None)
        save_features(features, folder / "features" / f"{name}.safetensors", "test")
        records.append(
            ClipRecord(
                clip=name,
                video=f"{name}.mp4",
                start=0.0,
                duration=FRAMES / 25,
                fps=25.0,
                frames=FRAMES,
                width=width,
                height=height,
                expression=(number % 4) / 3,
                body=(number % 3) / 2,
                expression_measure=1.0,
                body_measure=1.0,
                face_size=30.0,
                features=f"features/{name}.safetensors",
                face_height=0.5 + 0.01 * number,
                face_x=0.5,
                face_y=0.55,
            )
        )
    write_records(folder / "manifest.jsonl", records)
    return folder / "manifest.jsonl"


def _features(
    seed: int, width: int, height: int, channels: int = 16, text_dim: int | None = None, temporal_stride: int = 4
) -> ClipFeatures:
    generator = torch.Generator().manual_seed(seed)
    frames = (FRAMES - 1) // temporal_stride + 1

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    first = random(channels, 1, height, width)
    audio = random(18, AUDIO_DIM)
    lips = torch.zeros(frames, height, width)
    lips[:, height // 2 : height // 2 + 2, max(0, width // 2 - 2) : width // 2 + 2] = 1.0
    # The lips follow the audio, so that there is something to learn.
    loudness = audio[: 18 // frames * frames, :channels].unflatten(0, (frames, -1)).mean(dim=1).T[:, :, None, None]
    return ClipFeatures(
        latents=first + 0.1 * random(channels, frames, height, width) + 2 * lips * loudness,
        first_frame_latents=torch.cat([first, torch.zeros(channels, frames - 1, height, width)], dim=1),
        text=random(5, text_dim or TEXT_DIM),
        image=random(6, IMAGE_DIM),
        audio=audio,
        frame_times=torch.arange(FRAMES, dtype=torch.float64) / 25,
        face=torch.nn.functional.normalize(random(1, 512), dim=-1),
        lip_mask_causal=lips,
        lip_mask_trilinear=lips * 0.5,
    )


def make_driven_corpus(folder: Path, clips: int = 8, people: tuple[int, ...] = (1, 2), audio: bool = False) -> Path:
    """As `make_corpus`, with expression-driven faces side by side in 64x64; `audio` adds a track per person."""
    records = []
    for number, record in enumerate(read_manifest(make_corpus(folder, clips))):
        count = people[number % len(people)]
        features = _driven(_features(number, 8, 8), count, number, audio)
        save_features(features, folder / record.features, "test")
        records.append(replace(record, people=count))
    write_records(folder / "manifest.jsonl", records)
    return folder / "manifest.jsonl"


def _driven(features: ClipFeatures, people: int, seed: int, audio: bool) -> ClipFeatures:
    generator = torch.Generator().manual_seed(1000 + seed)
    expression = torch.randn(people, FRAMES, sum(EXPRESSION_DIMS), generator=generator)
    edges = torch.linspace(0, 64, people + 1)
    box = torch.stack([edges[:-1], torch.zeros(people), edges[1:], torch.full((people,), 64.0)], dim=1)
    # Each face's expression changes its region of the frame.
    latents = features.latents.clone()
    for person, (left, right) in enumerate(zip(edges[:-1].int() // 8, edges[1:].int() // 8, strict=True)):
        latents[:, :, :, left:right] += 2 * expression[person, ::4, 0][None, :, None, None]
    present = torch.rand(people, FRAMES, generator=generator) < 0.9
    return replace(
        features,
        latents=latents,
        face=torch.nn.functional.normalize(torch.randn(people, 512, generator=generator), dim=-1),
        expression=expression,
        expression_present=present,
        boxes=box[:, None].repeat(1, FRAMES, 1),
        speakers=torch.randn(people, *features.audio.shape, generator=generator) if audio else None,
    )


def make_base(folder: Path) -> Path:
    """A tiny Wan base with the feature dimensions of the corpus."""
    return save_base(folder, text_dim=TEXT_DIM, image_dim=IMAGE_DIM, num_layers=2)


def config_overrides(folder: Path, manifest: Path, base: Path, /, **changes: Any) -> list[str]:
    """Overrides of a run small enough for a test; `changes` use __ for a dot."""
    values: dict[str, Any] = {
        "model": "nano",
        "base": base,
        "output": folder,
        "batch_size": 2,
        "mixed_precision": "no",
        "gradient_checkpointing": False,
        "data.manifests": f"[{manifest}]",
        "data.max_text_tokens": 8,
        "data.num_workers": 0,
        "stage.name": "stage1",
        "stage.alignment": "clip",
        "stage.steps": 2,
        "optimizer.warmup_steps": 0,
        "optimizer.learning_rate": 1e-3,
        "logging.interval": 1,
        "checkpoints.interval": 1,
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    return [f"{key}={value}" for key, value in values.items()]
