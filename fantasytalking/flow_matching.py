"""Flow matching in Wan's convention: sigma 0 is the sample, sigma 1 is noise, the model predicts noise - sample.

Axes: B batch, C channels, F latent frames, h and w latent height and width.
"""

import math
from dataclasses import dataclass
from enum import Enum
from statistics import NormalDist

import torch
from torch import Tensor

from fantasytalking.common.errors import ErrorCode, InputError

NUM_TRAIN_TIMESTEPS = 1000
"""The transformer's timestep is sigma times this number."""


class SigmaDistribution(Enum):
    """Distribution of the noise levels in training, before the shift."""

    uniform = "uniform"
    logit_normal = "logit_normal"
    """More samples at medium noise levels (Esser et al., arXiv 2403.03206, section 3.1); used to pretrain Wan 2.1."""


class LossNormalization(Enum):
    """Divisor of a sample's weighted squared error. The paper leaves it open."""

    positions = "positions"
    """Number of all positions, as in the paper's M * L: a lip has the same weight as without a mask."""
    mask = "mask"
    """Area of the mask: the mean error of the lips alone, independent of their size."""


@dataclass
class SigmaConfig:
    """Distribution of the noise levels in training."""

    distribution: SigmaDistribution = SigmaDistribution.uniform
    mean: float = 0.0
    """Mean of the logit (logit_normal only)."""
    std: float = 1.0
    """Standard deviation of the logit (logit_normal only)."""
    shift: float = 5.0
    """Shift of the noise levels towards noise; 1 = none. 5 matches the sampling of the released inference code."""

    def validate(self) -> None:
        """Validates the range of every value.

        Raises:
            InputError: names the key, its value and the limits.
        """
        for name, low, high in (("mean", -10, 10), ("std", 1e-3, 10), ("shift", 1e-2, 100)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise InputError(
                    f"sigmas.{name} is {value}; it must be {low} to {high}",
                    code=ErrorCode.out_of_range,
                    field=f"sigmas.{name}",
                    value=value,
                )


FULL_SIGMA_RANGE = (0.0, 1.0)


def sample_sigmas(uniforms: Tensor, config: SigmaConfig, sigma_range: tuple[float, float] = FULL_SIGMA_RANGE) -> Tensor:
    """sigma = s x / (1 + (s - 1) x), x uniform or logit-normal (arXiv 2403.03206, equations 19 and 23).

    Args:
        uniforms: (B,) random numbers in [0, 1), mapped by the quantile function.
        sigma_range: of the noise levels, within [0, 1]: the distribution is restricted to it.

    Returns:
        (B,) noise levels in [0, 1], float32.
    """
    x = uniforms.double()
    if sigma_range != FULL_SIGMA_RANGE:
        low, high = (_cumulative(sigma, config) for sigma in sigma_range)
        x = low + (high - low) * x
    if config.distribution is SigmaDistribution.logit_normal:
        x = torch.sigmoid(config.mean + config.std * torch.special.ndtri(x.clamp(1e-7, 1 - 1e-7)))
    return shift_sigmas(x, config.shift).float()


def _cumulative(sigma: float, config: SigmaConfig) -> float:
    """Probability of noise levels below `sigma`: the inverse of what `sample_sigmas` does to its random numbers."""
    x = sigma / (config.shift + (1 - config.shift) * sigma)
    if config.distribution is SigmaDistribution.uniform or x in (0, 1):
        return x
    return NormalDist(config.mean, config.std).cdf(math.log(x / (1 - x)))


def shift_sigmas(sigmas: Tensor, shift: float) -> Tensor:
    """Shifts noise levels in [0, 1] towards noise: s x / (1 + (s - 1) x), elementwise."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def add_noise(sample: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """x_sigma = (1 - sigma) sample + sigma noise: the straight path (rectified flow, arXiv 2209.03003, equation 1).

    Args:
        sample, noise: (B, ...) of one shape.
        sigmas: (B,).
    """
    sigmas = sigmas.view(-1, *[1] * (sample.ndim - 1)).to(sample)
    return (1 - sigmas) * sample + sigmas * noise


def flow_matching_loss(
    prediction: Tensor,
    sample: Tensor,
    noise: Tensor,
    weight: Tensor | None = None,
    normalization: LossNormalization = LossNormalization.positions,
) -> Tensor:
    """L = |v - (noise - sample)|^2 (arXiv 2210.02747, equation 23), or M L with a mask M (FantasyTalking, section 3.2).

    Args:
        prediction, sample, noise: (B, C, F, h, w).
        weight: (B, 1, F, h, w) in [0, 1], the mask M; None = 1 everywhere.
        normalization: divisor of the weighted error; the loss of an empty mask is 0 under both.

    Returns:
        (B,) mean squared error of each sample, float32.
    """
    return velocity_loss(prediction, noise.float() - sample.float(), weight, normalization)


def velocity_loss(
    prediction: Tensor,
    velocity: Tensor,
    weight: Tensor | None = None,
    normalization: LossNormalization = LossNormalization.positions,
) -> Tensor:
    """Returns the (B,) weighted squared error of a velocity, float32; arguments as in `flow_matching_loss`."""
    error = (prediction.float() - velocity.float()).square().mean(dim=1, keepdim=True)  # over channels
    if weight is None:
        return error.flatten(1).mean(dim=1)
    weighted = (weight.float() * error).flatten(1)
    if normalization is LossNormalization.positions:
        return weighted.mean(dim=1)
    area = weight.float().flatten(1).sum(dim=1)
    return weighted.sum(dim=1) / area.clamp_min(torch.finfo(area.dtype).tiny)
