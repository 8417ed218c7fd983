"""Training of nano's face encoder: aligned faces of 112 pixels to ArcFace-sized embeddings (512), run by insightface.

The loss is the additive-margin softmax (Wang et al., "CosFace", CVPR 2018; F. Wang et al., 2018) over identities of the
portrait world. Axes: B faces.
"""

import logging
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fantasytalking.common.files import atomic_write
from fantasytalking.encoders.arcface import ARCFACE_DIM, ARCFACE_SIZE, FaceEncoder
from fantasytalking.nano.corpora.portrait_images import PortraitImages
from fantasytalking.nano.trainers.config import FaceEncoderTraining

ONNX_INPUT_NAME, ONNX_OUTPUT_NAME = "input.1", "embedding"


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, at half the resolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, 2, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.PReLU(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2), nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
        )
        self.activation = nn.PReLU(out_channels)

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.activation(self.body(image) + self.shortcut(image))
        return result


class FaceNetwork(nn.Module):
    """Maps RGB faces (B, 3, 112, 112) in [-1, 1] to embeddings (B, 512), which are not normalized."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        assert len(channels) == 4, "112 is halved four times to 7"
        first = channels[0]
        self.stem = nn.Sequential(nn.Conv2d(3, first, 3, 2, 1, bias=False), nn.BatchNorm2d(first), nn.PReLU(first))
        self.stages = nn.Sequential(*(_ResidualBlock(*pair) for pair in pairwise(channels)))
        self.gather = nn.Conv2d(channels[-1], channels[-1], 7, groups=channels[-1], bias=False)
        self.head = nn.Linear(channels[-1], ARCFACE_DIM)

    def forward(self, image: Tensor) -> Tensor:
        features = self.gather(self.stages(self.stem(image))).flatten(1)
        result: Tensor = self.head(features)
        return result


class FaceEncoderTask:
    """Classification of identities."""

    name = "face encoder"

    def __init__(
        self, config: FaceEncoderTraining, portrait_images: PortraitImages, seed: int, device: torch.device
    ) -> None:
        torch.manual_seed(seed)
        self._faces, self._config, self._device = portrait_images.faces, config, device
        self._classes = np.searchsorted(portrait_images.unique_identities, portrait_images.identities)
        centers = nn.Linear(ARCFACE_DIM, len(portrait_images.unique_identities), bias=False)
        self.network, self._centers = FaceNetwork(config.channels), centers
        # The key is part of saved training states.
        self.model = nn.ModuleDict({"network": self.network, "centres": centers})

    def loss(self, random: np.random.Generator, step: int) -> Tensor:
        """Returns the cross-entropy of scale * (cosine - margin of the true identity)."""
        chosen = random.integers(len(self._faces), size=self._config.fit.batch_size)
        images = torch.from_numpy(np.stack([augment_face(self._faces[index], random) for index in chosen]))
        classes = torch.from_numpy(self._classes[chosen]).to(self._device)
        embedding = self.network(to_network_input(images).to(self._device))
        cosine = F.linear(F.normalize(embedding.float()), F.normalize(self._centers.weight))
        margin = self._config.margin * F.one_hot(classes, cosine.shape[1])
        return F.cross_entropy(self._config.scale * (cosine - margin), classes)


def to_network_input(faces: Tensor) -> Tensor:
    """Converts faces (B, 112, 112, 3) uint8 to the network's input (B, 3, 112, 112), as insightface does."""
    return (faces.float().permute(0, 3, 1, 2) - 127.5) / 127.5


def augment_face(face: NDArray[np.uint8], random: np.random.Generator) -> NDArray[np.uint8]:
    """Changes light and position, blurs and adds noise, as compression and video models do."""
    import cv2

    angle, scale = random.normal(0, 3), random.uniform(0.94, 1.06)
    turn = np.asarray(cv2.getRotationMatrix2D((ARCFACE_SIZE / 2, ARCFACE_SIZE / 2), angle, scale), dtype=np.float64)
    turn[:, 2] += random.normal(0, 2, 2)
    result = cv2.warpAffine(face, turn, (ARCFACE_SIZE, ARCFACE_SIZE), borderMode=cv2.BORDER_REPLICATE)
    if random.random() < 0.4:
        small = int(random.integers(32, ARCFACE_SIZE))
        result = cv2.resize(
            cv2.resize(result, (small, small), interpolation=cv2.INTER_AREA), (ARCFACE_SIZE, ARCFACE_SIZE)
        )
    light = random.uniform(0.85, 1.15) * random.uniform(0.95, 1.05, 3)
    noisy = result * light + random.normal(0, 8) + random.normal(0, random.uniform(0, 5), result.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def verification_accuracy(
    encoder: FaceEncoder, portrait_images: PortraitImages, seed: int, num_pairs: int = 2000
) -> dict[str, float]:
    """Returns the accuracy with which a threshold on the cosine separates same from different people.

    Half of the `num_pairs` pairs show the same person. The threshold is optimal on the first half of the pairs, and the
    accuracy is that on the second half.
    """
    random = np.random.default_rng([seed, 9])
    embeddings = np.stack([encoder.encode_aligned(face) for face in portrait_images.faces])
    cosines, same = [], []
    for number in range(num_pairs):
        first = int(random.integers(len(embeddings)))
        candidates = (portrait_images.identities == portrait_images.identities[first]) == (number % 2 == 0)
        candidates[first] = False
        second = int(random.choice(np.flatnonzero(candidates)))
        cosines.append(float(embeddings[first] @ embeddings[second]))
        same.append(number % 2 == 0)
    cosine, truth, half = np.array(cosines), np.array(same), num_pairs // 2
    thresholds = np.unique(cosine[:half])
    scores = [float(((cosine[:half] >= threshold) == truth[:half]).mean()) for threshold in thresholds]
    threshold = float(thresholds[int(np.argmax(scores))])
    return {
        "accuracy": float(((cosine[half:] >= threshold) == truth[half:]).mean()),
        "threshold": threshold,
        "cosine_same": float(cosine[truth].mean()),
        "cosine_other": float(cosine[~truth].mean()),
        "people": len(portrait_images.unique_identities),
    }


def export_face_network(network: FaceNetwork, path: Path) -> None:
    """Writes the network as one .onnx file, which insightface loads as a recognition model."""
    network = network.cpu().eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # warns about missing torchvision, which is not needed
    with atomic_write(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(1, 3, ARCFACE_SIZE, ARCFACE_SIZE),),
            str(temporary),
            input_names=[ONNX_INPUT_NAME],
            output_names=[ONNX_OUTPUT_NAME],
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        _strip_onnx_metadata(temporary)


def _strip_onnx_metadata(path: Path) -> None:
    """Removes the source locations of nodes from an .onnx file."""
    import onnx

    model = onnx.load(path)
    parts = [model.graph, *model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output]
    for part in (model, *parts, *model.graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    onnx.save(model, path)
