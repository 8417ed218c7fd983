"""The miniature's expression encoder: each part's features read the part's truths by a linear map, on any face.

What two people who make the same face have in their features must agree, measured against how the features vary; so
identity is kept out of them, those that no truth needs among them.
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
from fantasytalking.nano.config import ExpressionEncoderTraining
from fantasytalking.nano.expression.expression_samples import EXPRESSION_TARGETS, ExpressionSamples
from fantasytalking.nano.expression.linear_probe import column_correlations, identity_accuracy

FEATURE_MEAN = 2.0
"""Mean of the features."""
FIVE_POINT_JITTER = 0.004
"""Deviation of the five points in training, as a part of the crop's side: the tracker's own, on small pictures."""
_CHUNK = 64


class ExpressionEncoderTask:
    """Reading what faces do, alike on pairs of people who do the same."""

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
        """Squared error of the truths in their own deviations, and what pairs disagree in."""
        chosen = self._pairs[random.integers(len(self._pairs), size=self._config.fit.batch_size // 2)]
        both = np.concatenate([chosen[:, 0], chosen[:, 1]])
        crops, places = self._augmented_inputs(both, random)
        features = self.network(crops.to(self._device), places.to(self._device)).float()
        truths = torch.from_numpy((self._samples.targets[both] - self._mean) / self._deviation).to(self._device)
        error = F.mse_loss(self._predict(features), truths)
        weight = self._config.agreement_weight * (step / self._config.fit.steps) ** 2
        return error + weight * _pair_disagreement(*features.chunk(2))

    @torch.no_grad()
    def standardize_features(self) -> None:
        """Makes the training pictures' features `FEATURE_MEAN` in the mean and each part's 1 in size; the readers
        follow.

        What makes tokens of them has no bias, and its LayerNorm forgets their length: of features round 0 only the
        direction would be left.
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
        """(N, D) features to (N, 17) truths in the order of `NAMES`."""
        with torch.no_grad():
            read = self._predict(features.to(self._device)).cpu().numpy()
        result: NDArray[np.float32] = read * self._deviation + self._mean
        return result

    def _predict(self, features: Tensor) -> Tensor:
        parts = zip(ENCODED_PARTS, features.split(self._config.network.dims, dim=1), strict=True)
        return torch.cat([self.readers[part](values) for part, values in parts], dim=1)

    def _augmented_inputs(self, indices: NDArray[np.int64], random: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Crops and places of samples, their points a little off, in another light, blurred and noisy."""
        starts = estimate_similarity(self._points[self._samples.rest_indices[indices]])
        points = self._points[indices]
        side = np.abs(estimate_similarity(points).scale_rotation)[:, None, None]
        places = estimate_similarity(points + random.normal(0, FIVE_POINT_JITTER, points.shape) * side)
        crops = crop_aligned(self._samples.images[indices], places, self._config.network.size)
        return _augment_crops(crops, random), crop_pose_values(places, starts)


def sample_five_points(samples: ExpressionSamples) -> NDArray[np.float32]:
    """(N, 5, 2) points of every sample's face, in pixels."""
    from fantasytalking.perception.face_crop import five_points

    found: NDArray[np.float32] = five_points(samples.landmarks)
    return found


def encode_samples(encoder: ExpressionEncoder, samples: ExpressionSamples) -> Tensor:
    """(N, D) features; the head's movement counts from the same person's picture at rest."""
    points, rests = sample_five_points(samples), samples.rest_indices
    found = []
    for person in np.unique(samples.identities):
        own = np.flatnonzero(samples.identities == person)
        found.append(encoder.encode(samples.images[own], points[own], points[rests[own[0]]]).features)
    return torch.cat(found)


def evaluate_expression_encoder(
    encoder: ExpressionEncoder, task: ExpressionEncoderTask, held_out: ExpressionSamples
) -> dict[str, float]:
    """On people who were not trained on: how the truths correlate with what is read, and what tells who it is.

    `identity_accuracy` is how often a linear map of the features names the person, `identity_of_crops` of the crops'
    own pixels, `identity_chance` by guessing.
    """
    features = encode_samples(encoder, held_out)
    crops = crop_aligned(held_out.images, estimate_similarity(sample_five_points(held_out)), 16).flatten(1)
    known = held_out.identities, held_out.pose_ids
    return {
        **column_correlations(task.predict(features), held_out.targets, EXPRESSION_PARAMETERS),
        "identity_accuracy": identity_accuracy(features.numpy(), *known),
        "identity_of_crops": identity_accuracy(crops.numpy(), *known),
        "identity_chance": 1 / len(np.unique(held_out.identities)),
    }


def _same_pose_pairs(poses: NDArray[np.int64]) -> NDArray[np.int64]:
    """(M, 2) numbers of samples in which two people make the same face, in both orders."""
    found = []
    for pose in np.unique(poses):
        same = np.flatnonzero(poses == pose)
        found += [(one, other) for one in same for other in same if one != other]
    assert found, "no two people make the same face"
    return np.array(found, dtype=np.int64)


def _pair_disagreement(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared difference of pairs over the features' variance: 0 for equal features, 2 for unrelated ones."""
    variance = torch.cat([first, second]).var(dim=0)
    return ((first - second).square().mean(dim=0) / (variance + 1e-6)).mean()


def _augment_crops(crops: Tensor, random: np.random.Generator) -> Tensor:
    """Another light for each, blur for some batches, noise: what compression and a video model do."""
    count, size = len(crops), crops.shape[-1]
    if random.random() < 0.4:
        small = int(random.integers(size // 3, size))
        shrunk = F.interpolate(crops, size=(small, small), mode="area")
        crops = F.interpolate(shrunk, size=(size, size), mode="bilinear", align_corners=False)
    light = random.uniform(0.85, 1.15, (count, 1, 1, 1)) * random.uniform(0.95, 1.05, (count, 3, 1, 1))
    offset = random.normal(0, 0.06, (count, 1, 1, 1))
    noise = torch.randn(crops.shape) * float(random.uniform(0, 0.05))
    return crops * torch.from_numpy(light).float() + torch.from_numpy(offset).float() + noise
