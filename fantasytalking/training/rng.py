"""Every random number of a step as a function of (seed, step, place in the global batch), and of nothing else.

So a resumed run repeats what the undisturbed one would have done, and two processes draw what one would have drawn: the
place in the global batch stands for the rank. Axes: B clips.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class StepRandomness(NamedTuple):
    """The random numbers of some clips of one step, float32; those in [0, 1) are uniform."""

    noise: Tensor
    """(B, 16, F, h, w) standard normal."""
    sigma_uniform: Tensor
    """(B,) in [0, 1): becomes the noise level."""
    mask_uniform: Tensor
    """(B,) in [0, 1): p of the lip-mask loss, one a clip."""
    step_mask_uniform: Tensor
    """(B,) in [0, 1): the same for every clip of the step."""
    dropout_uniform: Tensor
    """(B, 4) in [0, 1): reference, audio, prompt, expression."""
    guidance_uniform: Tensor
    """(B, 2) in [0, 1): become the scales of text and audio guidance in distillation."""


def step_randomness(seed: int, step: int, positions: Sequence[int], latent_shape: Sequence[int]) -> StepRandomness:
    """The random numbers for the clips at `positions` of the global batch, latents of `latent_shape` (16, F, h, w)
    each."""
    of_step = torch.rand(1, generator=_generator(seed, step))
    uniforms, noises, guidance, expression = [], [], [], []
    for place in positions:
        generator = _generator(seed, step, place)
        uniforms.append(torch.rand(5, generator=generator))
        noises.append(torch.randn(*latent_shape, generator=generator))
        guidance.append(torch.rand(2, generator=generator))
        expression.append(torch.rand(1, generator=generator))
    uniform = torch.stack(uniforms)
    return StepRandomness(
        noise=torch.stack(noises),
        sigma_uniform=uniform[:, 0],
        mask_uniform=uniform[:, 1],
        step_mask_uniform=of_step.expand(len(positions)),
        dropout_uniform=torch.cat([uniform[:, 2:], torch.stack(expression)], dim=1),
        guidance_uniform=torch.stack(guidance),
    )


def _generator(*key: int) -> torch.Generator:
    """A generator on the CPU, so that every device sees the same numbers; keys of different length differ too."""
    state = np.random.SeedSequence([len(key), *key]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))
