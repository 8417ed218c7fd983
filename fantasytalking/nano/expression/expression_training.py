"""Training of nano's expression encoder: a linear map of each part's features predicts the part's parameters.

The features of two people with the same expression must agree, relative to the features' variance. This removes
identity from all features, including those that no parameter needs.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fantasytalking.encoders.expression import (
    ENCODED_PARTS,
    ExpressionEncoder,
    ExpressionNetwork,
    crop_pose_values,
)
from fantasytalking.encoders.face_alignment import crop_aligned, estimate_similarity
from fantasytalking.evaluation.features.expression_reader import EXPRESSION_PARAMETERS
from fantasytalking.nano.expression.expression_samples import EXPRESSION_TARGETS, ExpressionSamples
from fantasytalking.nano.expression.linear_probe import column_correlations, identity_accuracy
from fantasytalking.nano.trainers.config import ExpressionEncoderTraining

FEATURE_MEAN = 2.0
"""Mean of the standardized features."""
FIVE_POINT_JITTER = 0.004
"""Standard deviation of the noise on the five points in training, as a fraction of the crop's side. It equals the
tracker's noise on small images."""


class ExpressionEncoderTask:
    """Predicts expression parameters, with features that agree between people with the same expression."""

    name = "expression encoder"

    def __init__(
        self, config: ExpressionEncoderTraining, samples: ExpressionSamples, seed: int, device: torch.device
    ) -> None:
        torch.manual_seed(seed)
        self._config, self._samples, self._device = config, samples, device
        self._points = sample_five_points(samples)
        self._pairs = _same_pose_pairs(samples.pose_ids)
        self._mean, self._deviation = samples.targets.mean(axis=0), samples.targets.std(axis=0)
        self.network = ExpressionNetwork(config.network)
        self.readers = nn.ModuleDict(
            {
                part: nn.Linear(dim, len(EXPRESSION_TARGETS[part]))
                for part, dim in zip(ENCODED_PARTS, config.network.dims, strict=True)
            }
        )
        self.model = nn.ModuleDict({"network": self.network, "readers": self.readers})

    def loss(self, random: np.random.Generator, step: int) -> Tensor:
        """Returns the squared error of the standardized parameters plus the weighted disagreement of pairs."""
        chosen = self._pairs[random.integers(len(self._pairs), size=self._config.fit.batch_size // 2)]
        both = np.concatenate([chosen[:, 0], chosen[:, 1]])
        crops, crop_poses = self._augmented_inputs(both, random)
        features = self.network(crops.to(self._device), crop_poses.to(self._device)).float()
        targets = torch.from_numpy((self._samples.targets[both] - self._mean) / self._deviation).to(self._device)
        error = F.mse_loss(self._predict(features), targets)
        weight = self._config.agreement_weight * (step / self._config.fit.steps) ** 2
        return error + weight * _pair_disagreement(*features.chunk(2))

    @torch.no_grad()
    def standardize_features(self) -> None:
        """Shifts and scales the features to mean `FEATURE_MEAN` and, per part, root mean square deviation 1 on the
        training images. The linear maps are adapted, so that predictions do not change.

        The expression projector has no bias and its LayerNorm removes the length of features, so that of features with
        mean 0 only the direction would remain.
        """
        features = encode_samples(ExpressionEncoder(self.network, self._device), self._samples)
        for part, values in zip(ENCODED_PARTS, features.split(self._config.network.dims, dim=1), strict=True):
            last, reader = self.network.last[part], self.readers[part]
            assert isinstance(last, nn.Linear) and isinstance(reader, nn.Linear)
            mean, size = values.mean(dim=0).to(self._device), float(values.std(dim=0).square().mean().sqrt())
            reader.bias.add_(reader.weight @ (mean - size * FEATURE_MEAN))
            reader.weight.mul_(size)
            last.bias.sub_(mean).div_(size).add_(FEATURE_MEAN)
            last.weight.div_(size)

    def predict(self, features: Tensor) -> NDArray[np.float32]:
        """Maps features (N, D) to expression parameters (N, 17) in the order of `EXPRESSION_PARAMETERS`."""
        with torch.no_grad():
            standardized = self._predict(features.to(self._device)).cpu().numpy()
        result: NDArray[np.float32] = standardized * self._deviation + self._mean
        return result

    def _predict(self, features: Tensor) -> Tensor:
        parts = zip(ENCODED_PARTS, features.split(self._config.network.dims, dim=1), strict=True)
        return torch.cat([self.readers[part](values) for part, values in parts], dim=1)

    def _augmented_inputs(self, indices: NDArray[np.int64], random: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Returns augmented crops and crop poses of samples, with noise on the five points."""
        rest_transforms = estimate_similarity(self._points[self._samples.rest_indices[indices]])
        points = self._points[indices]
        side = np.abs(estimate_similarity(points).scale_rotation)[:, None, None]
        transforms = estimate_similarity(points + random.normal(0, FIVE_POINT_JITTER, points.shape) * side)
        crops = crop_aligned(self._samples.images[indices], transforms, self._config.network.size)
        return _augment_crops(crops, random), crop_pose_values(transforms, rest_transforms)


def sample_five_points(samples: ExpressionSamples) -> NDArray[np.float32]:
    """Returns the five alignment points (N, 5, 2) of every sample in pixels."""
    from fantasytalking.perception.face_crop import five_points

    points: NDArray[np.float32] = five_points(samples.landmarks)
    return points


def encode_samples(encoder: ExpressionEncoder, samples: ExpressionSamples) -> Tensor:
    """Returns features (N, D), with head motion relative to the same person's image at rest."""
    points, rest_indices = sample_five_points(samples), samples.rest_indices
    features = []
    for person in np.unique(samples.identities):
        own = np.flatnonzero(samples.identities == person)
        features.append(encoder.encode(samples.images[own], points[own], points[rest_indices[own[0]]]).features)
    return torch.cat(features)


def evaluate_expression_encoder(
    encoder: ExpressionEncoder, task: ExpressionEncoderTask, held_out: ExpressionSamples
) -> dict[str, float]:
    """Evaluates the encoder on held-out people.

    Returns:
        the correlation of each predicted expression parameter with its true value, by name, and the accuracy with which
        a linear probe identifies the person: `identity_accuracy` from the features, `identity_of_crops` from the pixels
        of the crops, `identity_chance` by chance.
    """
    features = encode_samples(encoder, held_out)
    crops = crop_aligned(held_out.images, estimate_similarity(sample_five_points(held_out)), 16).flatten(1)
    labels = held_out.identities, held_out.pose_ids
    return {
        **column_correlations(task.predict(features), held_out.targets, EXPRESSION_PARAMETERS),
        "identity_accuracy": identity_accuracy(features.numpy(), *labels),
        "identity_of_crops": identity_accuracy(crops.numpy(), *labels),
        "identity_chance": 1 / len(np.unique(held_out.identities)),
    }


def _same_pose_pairs(poses: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns index pairs (M, 2) of samples with the same expression, in both orders."""
    pairs = []
    for pose in np.unique(poses):
        same = np.flatnonzero(poses == pose)
        pairs += [(first, second) for first in same for second in same if first != second]
    assert pairs, "no two people have the same expression"
    return np.array(pairs, dtype=np.int64)


def _pair_disagreement(first: Tensor, second: Tensor) -> Tensor:
    """Returns the mean squared difference of pairs relative to the features' variance: 0 for equal features, 2 for
    independent ones."""
    variance = torch.cat([first, second]).var(dim=0)
    return ((first - second).square().mean(dim=0) / (variance + 1e-6)).mean()


def _augment_crops(crops: Tensor, random: np.random.Generator) -> Tensor:
    """Changes the light of each crop, blurs some batches and adds noise, as compression and video models do."""
    count, size = len(crops), crops.shape[-1]
    if random.random() < 0.4:
        small = int(random.integers(size // 3, size))
        shrunk = F.interpolate(crops, size=(small, small), mode="area")
        crops = F.interpolate(shrunk, size=(size, size), mode="bilinear", align_corners=False)
    light = random.uniform(0.85, 1.15, (count, 1, 1, 1)) * random.uniform(0.95, 1.05, (count, 3, 1, 1))
    offset = random.normal(0, 0.06, (count, 1, 1, 1))
    noise = torch.randn(crops.shape) * float(random.uniform(0, 0.05))
    return crops * torch.from_numpy(light).float() + torch.from_numpy(offset).float() + noise
