"""Embeds the two guidance scales as a vector that is added to the timestep embedding.

A distilled student takes the scales as inputs instead of one call per guidance branch (Meng et al., arXiv 2210.03142,
section 3.1).
"""

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.models.cfg_branches import CfgOrder

NUM_FREQUENCIES = 4
"""Frequencies per scale: one, two, three and four quarter turns from the middle of its range to an end."""
MAX_DISTILLATION_WINDOWS = 100
MAX_GUIDANCE_SCALE = 100.0


@dataclass(frozen=True)
class DistillationSpec:
    """Settings that a distilled model was trained for; it supports no others."""

    windows: int
    """K: segments of the path from noise to sample, each of which the student crosses in one straight step."""
    shift: float
    """Shift of the noise levels towards noise; the segments are equal before it."""
    text: tuple[float, float]
    """Smallest and largest scale of text guidance."""
    audio: tuple[float, float]
    """Smallest and largest scale of audio guidance."""
    formula: CfgOrder
    """Order of the teacher's guidance branches."""
    width: int
    """Inner width of the embedder."""

    @classmethod
    def from_dict(cls, values: Any, source: str) -> "DistillationSpec":
        """Parses the JSON object of an adapter's or a transformer's configuration.

        Raises:
            InputError: a key is missing or unknown, or a value is out of range.
        """
        names = {item.name for item in fields(cls)}
        if not isinstance(values, dict) or values.keys() != names:
            raise InputError(
                f"{source}: distillation is {values!r}; the keys {', '.join(sorted(names))} are required",
                code=ErrorCode.malformed_file,
                field="distillation",
                value=values,
            )
        known = [formula.value for formula in CfgOrder]
        fits = type(values["windows"]) is int and 1 <= values["windows"] <= MAX_DISTILLATION_WINDOWS
        fits = fits and _is_number(values["shift"]) and 0.01 <= values["shift"] <= 100
        fits = fits and type(values["width"]) is int and 1 <= values["width"] <= 8192
        fits = fits and values["formula"] in known and all(_is_range(values[name]) for name in ("text", "audio"))
        if not fits:
            raise InputError(
                f"{source}: distillation is {values!r}; windows 1 to {MAX_DISTILLATION_WINDOWS}, shift 0.01 to 100, "
                f"width 1 to 8192, formula {' or '.join(known)}, and for text and audio two scales from 0 to "
                f"{MAX_GUIDANCE_SCALE:g} are required",
                code=ErrorCode.out_of_range,
                field="distillation",
                value=values,
            )
        low_high = {name: (float(values[name][0]), float(values[name][1])) for name in ("text", "audio")}
        formula = CfgOrder(values["formula"])
        return cls(values["windows"], float(values["shift"]), **low_high, formula=formula, width=values["width"])

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON object for a configuration."""
        return {**asdict(self), "text": list(self.text), "audio": list(self.audio), "formula": self.formula.value}


class GuidanceEmbedder(nn.Module):
    """Sines and cosines of both scales, then an MLP whose last layer starts at zero, so that a new one adds nothing.

    Args:
        distillation: the ranges of the scales and the inner width.
        out_dim: width of the timestep embedding.
    """

    def __init__(self, distillation: DistillationSpec, out_dim: int) -> None:
        super().__init__()
        self.ranges = (distillation.text, distillation.audio)
        self.inner = nn.Linear(4 * NUM_FREQUENCIES, distillation.width)
        self.output = nn.Linear(distillation.width, out_dim)
        self.reset_parameters()

    def forward(self, scales: Tensor) -> Tensor:
        """(B, 2) scales of text and audio guidance -> (B, out_dim)."""
        low, high = torch.tensor(self.ranges, device=scales.device).unbind(dim=1)
        centered = (2 * scales.float() - low - high) / (high - low).clamp_min(1e-6)  # a range becomes -1 to 1
        turns = torch.arange(1, NUM_FREQUENCIES + 1, device=scales.device) * (math.pi / 2)
        angles = (centered[..., None] * turns).flatten(1)  # (B, 2 * FREQUENCIES)
        features = torch.cat([angles.sin(), angles.cos()], dim=1).to(self.output.weight.dtype)
        return self.output(F.silu(self.inner(features)))

    def reset_parameters(self) -> None:
        """Initializes the weights at random; the output is exactly zero."""
        self.inner.reset_parameters()
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)


def guidance_embedder_shapes(distillation: DistillationSpec, out_dim: int) -> dict[str, tuple[int, ...]]:
    """Returns names and shapes of an embedder's tensors, without building it."""
    with torch.device("meta"):
        embedder = GuidanceEmbedder(distillation, out_dim)
    return {name: tuple(value.shape) for name, value in embedder.state_dict().items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_range(value: Any) -> bool:
    pair = isinstance(value, list | tuple) and len(value) == 2 and all(_is_number(end) for end in value)
    return pair and 0 <= value[0] <= value[1] <= MAX_GUIDANCE_SCALE
