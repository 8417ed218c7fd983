"""Sizes, weights and inputs of the golden forwards, for the script that makes them and the test that reads them.

Weights and inputs follow from a tensor's name and shape by integer arithmetic. They are equal to the bit under every
version of torch and NumPy, so only what the released code computed from them is stored.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

FOLDER = Path(__file__).resolve().parent
METADATA = "golden"
"""The one entry of a golden file's metadata: JSON with repository, commit, torch, and the shapes of all weights."""

WAN: dict[str, Any] = {
    "model_type": "i2v",
    "in_dim": 36,
    "out_dim": 16,
    "dim": 48,
    "num_heads": 2,
    "num_layers": 2,
    "ffn_dim": 64,
    "freq_dim": 32,
    "text_dim": 20,
    "text_len": 16,
    "cross_attn_norm": True,
}
"""Arguments of the released `WanModel`. It fixes 257 image tokens of width 1280 itself."""
NUM_FRAMES = 17
"""Video frames: 5 latent frames."""
TIMESTEP = 97.5
"""Low, so that the comparison is close. The released code computes the sinusoids of the timestep in float64, diffusers
in float32, with an error that grows with the timestep. At 637 the predictions differ by 1.8e-6, and by 3e-7 with
sinusoids in float64."""

AUDIO_DIM, AUDIO_TOKEN_DIM = 24, 32
"""Widths of the audio features and of the projected tokens; released 768 and 2048."""
AUDIO_TOKENS = 36
"""wav2vec2 tokens of 17 frames at the released 23 fps. The first and the last window reach outside the clip."""
AUDIO_SIZE = (4, 6)
"""Height and width of the latents."""
AUDIO_SCALES = {"frame": 1.0, "clip": 0.7}
"""Weight of the audio for one window per latent frame and for one window of the whole clip."""

RESAMPLER = {"dim": 16, "depth": 2, "heads": 2}
"""Of the released portrait adapter's two resamplers; released 1280, 4 and 20. Its other sizes are fixed in its code."""
PORTRAIT_SIZE = (6, 12)
"""Height and width of the latents."""
PICTURE = (8 * PORTRAIT_SIZE[0], 8 * PORTRAIT_SIZE[1])
"""Height and width in pixels."""
PORTRAIT_SCALES = {"single": 1.0, "two": 0.8}
"""Weight of the expression for one person and for two people."""
FACES = [[6, 3, 30, 30], [52, 18, 78, 46]]
"""Left, top, right, bottom of both faces in the picture's pixels. Some video tokens belong to neither."""
DRIVING_FACES = [
    [[100 + 3 * frame, 80, 200 + 3 * frame, 220] for frame in range(NUM_FRAMES)],
    [[150 - frame, 90 + frame, 250 - frame, 210 + frame] for frame in range(NUM_FRAMES)],
]
"""The same of the faces in the driving videos, per frame. Their movement widens the faces' boxes in the picture."""


def uniform(name: str, shape: Sequence[int], scale: float = 1.0, middle: float = 0.0) -> Tensor:
    """Values from `middle - scale` to `middle + scale` that follow from name and position alone, float32.

    SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) turns the position, offset by the name's CRC-32, into 24 bits.
    """
    bits = np.arange(1, math.prod(shape) + 1, dtype=np.uint64) + np.uint64(zlib.crc32(name.encode()) << 32)
    bits *= np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits = (bits ^ (bits >> np.uint64(31))) >> np.uint64(40)
    values = middle + scale * (bits.astype(np.float64) / 2**23 - 1)
    return torch.from_numpy(values.astype(np.float32)).reshape(*shape)


def weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Weights under which signals keep their size: matrices by their fan-in, norms around 1, biases around 0."""
    values = {}
    for name, shape in shapes.items():
        if len(shape) > 1:
            values[name] = uniform(name, shape, math.sqrt(3 / math.prod(shape[1:])))
        else:
            values[name] = uniform(name, shape, 0.25, 1.0 if name.endswith(".weight") else 0.0)
    return values


def base_inputs(size: tuple[int, int]) -> dict[str, Tensor]:
    """Inputs of the base, of mean 0 and variance 1, for latents of `size`.

    Returns:
        latents (1, 16, 5, *size), image_condition (1, 20, 5, *size), text_embeds (1, 16, 20), image_embeds
        (1, 257, 1280) and timestep (1,).
    """
    frames = (NUM_FRAMES - 1) // 4 + 1
    shapes = {
        "latents": (1, WAN["out_dim"], frames, *size),
        "image_condition": (1, WAN["in_dim"] - WAN["out_dim"], frames, *size),
        "text_embeds": (1, WAN["text_len"], WAN["text_dim"]),
        "image_embeds": (1, 257, 1280),
    }
    inputs = {name: uniform(name, shape, math.sqrt(3)) for name, shape in shapes.items()}
    return {**inputs, "timestep": torch.tensor([TIMESTEP])}


def audio_features() -> Tensor:
    """(1, 36, 24), in place of wav2vec2's features."""
    return uniform("audio_features", (1, AUDIO_TOKENS, AUDIO_DIM), math.sqrt(3))


def expression_features() -> Tensor:
    """(2, 17, 554): head 6, eye 6, emotion 30 and mouth 512 of two people, per frame."""
    return uniform("expression_features", (len(FACES), NUM_FRAMES, 554), math.sqrt(3))
