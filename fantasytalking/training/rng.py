"""Random numbers of a step, as a function of (seed, step, position in the global batch) only.

A resumed run therefore repeats the numbers of an uninterrupted one, and several processes draw the numbers of a single
one: the position in the global batch replaces the rank.

Axes: B clips, Z latent channels, F latent frames, h and w latent height and width.
"""

from collections.abc import Sequence
from typing import NamedTuple
from zlib import crc32

import numpy as np
import torch
from torch import Tensor


class StepRandomness(NamedTuple):
    """Random numbers of B clips of one step, float32; those in [0, 1) are uniform."""

    noise: Tensor
    """(B, Z, F, h, w) standard normal."""
    sigma_uniform: Tensor
    """(B,) in [0, 1): mapped to the noise level."""
    mask_uniform: Tensor
    """(B,) in [0, 1): p of the lip-mask loss, one per clip."""
    step_mask_uniform: Tensor
    """(B,) in [0, 1): p of the lip-mask loss, one per step."""
    dropout_uniform: dict[str, Tensor]
    """(B,) in [0, 1) by name of the probability of dropping (`ConditionSpec.dropout`)."""
    guidance_uniform: Tensor
    """(B, 2) in [0, 1): mapped to the text and audio guidance scales in distillation."""

    def to(self, device: torch.device) -> "StepRandomness":
        """Returns a copy on `device`."""
        dropout = {name: value.to(device, non_blocking=True) for name, value in self.dropout_uniform.items()}
        moved = {
            name: value.to(device, non_blocking=True)
            for name, value in self._asdict().items()
            if isinstance(value, Tensor)
        }
        return StepRandomness(dropout_uniform=dropout, **moved)


def step_randomness(
    seed: int, step: int, positions: Sequence[int], latent_shape: Sequence[int], registered: Sequence[str] = ()
) -> StepRandomness:
    """Returns the random numbers of clips of a step.

    Args:
        positions: of the clips in the global batch.
        latent_shape: shape of their latents, (Z, F, h, w).
        registered: names of registered conditions, which change no other number.
    """
    step_uniform = torch.rand(1, generator=_generator(seed, step))
    uniforms, noises, guidance, expression = [], [], [], []
    for position in positions:
        generator = _generator(seed, step, position)
        uniforms.append(torch.rand(5, generator=generator))
        noises.append(torch.randn(*latent_shape, generator=generator))
        guidance.append(torch.rand(2, generator=generator))
        expression.append(torch.rand(1, generator=generator))
    uniform = torch.stack(uniforms)
    dropout = dict(zip(("reference", "audio", "prompt"), uniform[:, 2:].unbind(1), strict=True))
    for name in registered:
        generators = [_generator(seed, step, position, crc32(name.encode())) for position in positions]
        dropout[name] = torch.cat([torch.rand(1, generator=generator) for generator in generators])
    return StepRandomness(
        noise=torch.stack(noises),
        sigma_uniform=uniform[:, 0],
        mask_uniform=uniform[:, 1],
        step_mask_uniform=step_uniform.expand(len(positions)),
        dropout_uniform={**dropout, "expression": torch.cat(expression)},
        guidance_uniform=torch.stack(guidance),
    )


def _generator(*key: int) -> torch.Generator:
    """CPU generator, so that every device sees the same numbers. Keys of different lengths give different numbers."""
    state = np.random.SeedSequence([len(key), *key]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))
