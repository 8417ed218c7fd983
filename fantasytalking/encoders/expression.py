"""Encodes the expression of a face as implicit features per frame: head, eye, emotion and mouth.

The encoder of the method is PD-FGC, which computes the four features from one aligned crop of the face; it needs the
released file. With the released landmark networks beside it, crops are aligned as in the released front end. Our own
encoder is a small network of the same kind. Axes: T frames, B crops, D features.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from fantasytalking.common.config import config_from_dict
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write, bounded_file
from fantasytalking.common.limits import MAX_ENCODER_BYTES, MAX_ENCODER_CONFIG_BYTES
from fantasytalking.common.tensor_io import check_finite, check_shapes, open_safetensors
from fantasytalking.common.text_files import read_json
from fantasytalking.encoders.face_alignment import SimilarityTransform, crop_aligned, estimate_similarity
from fantasytalking.encoders.fantasy_portrait.pd_fgc import (
    PdFgcNetwork,
    contains_pd_fgc,
    load_pd_fgc,
    read_pd_fgc_tensors,
)

if TYPE_CHECKING:
    from fantasytalking.encoders.fantasy_portrait.tracker import FantasyPortraitNetworks

ENCODER_CONFIG_FILE, ENCODER_WEIGHTS_FILE = "config.json", "model.safetensors"
PD_FGC_SUFFIXES = (".pth", ".safetensors")
PD_FGC_FILE_STEM = "pd_fpg"
ENCODED_PARTS = ("head", "eye", "emotion", "mouth")
NUM_POSE_VALUES = 4
"""Number of values that describe the position of a crop; see `crop_pose_values`."""
_BATCH_SIZE = 32
_POSE_SCALE = 30.0
"""Factor that brings the values to about 1: heads move by hundredths of a radian and of their size."""


@dataclass
class ExpressionEncoderConfig:
    """Sizes of the network (config.json)."""

    dims: list[int] = field(default_factory=lambda: [6, 6, 8, 16])
    """Number of features of head, eye, emotion and mouth."""
    size: int = 64
    """Side of the crop in pixels."""
    channels: list[int] = field(default_factory=lambda: [16, 32, 64, 96])
    """Number of channels after each halving of the crop."""
    hidden: int = 64
    """Width of the hidden layer of each part."""

    def validate(self) -> None:
        """Checks the sizes.

        Raises:
            InputError: a size is out of range.
        """
        checks = {
            "dims": len(self.dims) == len(ENCODED_PARTS) and all(1 <= dim <= 1024 for dim in self.dims),
            "channels": 2 <= len(self.channels) <= 6 and all(8 <= c <= 512 and c % 8 == 0 for c in self.channels),
            "size": 16 <= self.size <= 256 and self.size % 2 ** len(self.channels) == 0,
            "hidden": 1 <= self.hidden <= 1024,
        }
        for name, valid in checks.items():
            if not valid:
                value = getattr(self, name)
                raise InputError(
                    f"expression encoder: {name} is {value}, which is out of range",
                    code=ErrorCode.out_of_range,
                    field=name,
                    value=value,
                )


class ExpressionFeatures(NamedTuple):
    """Expression features of the frames of a driving video."""

    features: Tensor
    """(T, D) float32: head, eye, emotion, mouth. A frame without a face repeats the last frame with a face, or the
    first one if there is none before."""
    present: Tensor
    """(T,) bool: the frame has a face."""


PointTracker = Callable[[NDArray[np.uint8], NDArray[np.floating]], NDArray[np.floating]]
"""Maps the next frames (T, H, W, 3) of a video and points (T, 5, 2) of a face to the points that align its crops."""


class _Residual(nn.Module):
    """Two 3x3 convolutions with a shortcut, at half the resolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, out_channels, 3, 2, 1)
        self.first_norm = nn.GroupNorm(8, out_channels)
        self.second = nn.Conv2d(out_channels, out_channels, 3, 1, 1)
        self.second_norm = nn.GroupNorm(8, out_channels)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        hidden = F.silu(self.first_norm(self.first(image)))
        return F.silu(self.second_norm(self.second(hidden)) + self.shortcut(F.avg_pool2d(image, 2)))


class ExpressionNetwork(nn.Module):
    """Computes features of crops with a shared trunk and one head per part; only the head pose uses the position.

    Args:
        config: the sizes.
    """

    def __init__(self, config: ExpressionEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = nn.Sequential(*(_Residual(*pair) for pair in pairwise([3, *config.channels])))
        side = config.size // 2 ** len(config.channels)
        trunk_dim = config.channels[-1] * side * side
        pose_dims = {part: NUM_POSE_VALUES if part == "head" else 0 for part in ENCODED_PARTS}
        self.hidden = nn.ModuleDict({part: nn.Linear(trunk_dim, config.hidden) for part in ENCODED_PARTS})
        self.last = nn.ModuleDict(
            {
                part: nn.Linear(config.hidden + pose_dims[part], dim)
                for part, dim in zip(ENCODED_PARTS, config.dims, strict=True)
            }
        )

    @property
    def dims(self) -> tuple[int, int, int, int]:
        """Number of features of head, eye, emotion and mouth."""
        head, eye, emotion, mouth = self.config.dims
        return head, eye, emotion, mouth

    def encode_faces(
        self,
        frames: NDArray[np.uint8],
        points: NDArray[np.floating],
        reference_points: NDArray[np.floating],
        device: torch.device,
    ) -> Tensor:
        """Returns features (T, D) of faces at (T, 5, 2) points; head motion is relative to (5, 2) reference points."""
        transforms = estimate_similarity(points)
        crops = crop_aligned(frames, transforms, self.config.size)
        features: Tensor = self(
            crops.to(device), crop_pose_values(transforms, estimate_similarity(reference_points[None])).to(device)
        )
        return features

    def forward(self, crops: Tensor, pose_values: Tensor) -> Tensor:
        """Maps crops (B, 3, size, size) in [-1, 1] and (B, 4) `crop_pose_values` to (B, sum of dims)."""
        trunk_features = self.trunk(crops).flatten(1)
        hidden = {part: F.silu(self.hidden[part](trunk_features)) for part in ENCODED_PARTS}
        hidden["head"] = torch.cat([hidden["head"], pose_values], dim=1)
        return torch.cat([self.last[part](hidden[part]) for part in ENCODED_PARTS], dim=1)


def crop_pose_values(transforms: SimilarityTransform, reference: SimilarityTransform) -> Tensor:
    """Returns the tilt of a head and its motion relative to a reference: (T, 4) float32, in thirtieths.

    The values are the tilt in radians, the logarithm of the size relative to the reference, and the displacement right
    and down in reference sizes (one size is the side of the crop). They depend neither on the resolution of the image
    nor on the position of the person in it.

    Args:
        transforms: the alignments of the crops.
        reference: one alignment, or one per crop.
    """
    rotation, size = transforms.scale_rotation, np.abs(reference.scale_rotation)
    displacement = (transforms.center - reference.center) / size
    log_scale = np.log(np.abs(rotation) / size)
    values = np.stack([np.angle(rotation), log_scale, displacement.real, displacement.imag], axis=1)
    return torch.from_numpy(values * _POSE_SCALE).float()


class ExpressionEncoder:
    """Runs a frozen expression network on the faces of a video.

    Args:
        network: our network or PD-FGC.
        device: the device of the network.
        face_networks: FantasyPortrait's detector and landmark network, which align the crops; None uses the given
            points.
    """

    def __init__(
        self,
        network: ExpressionNetwork | PdFgcNetwork,
        device: torch.device | str = "cpu",
        face_networks: "FantasyPortraitNetworks | None" = None,
    ) -> None:
        self._device = torch.device(device)
        self._face_networks = face_networks
        self.network = network.to(self._device).eval().requires_grad_(False)

    @classmethod
    def from_pretrained(cls, source: str | Path, *, device: torch.device | str = "cpu") -> "ExpressionEncoder":
        """Loads the encoder that `save_pretrained` wrote to the folder `source`, or the released one.

        The released encoder is a single file `source`, or pd_fpg.pth or pd_fpg.safetensors in a folder, with the
        released landmark networks if the folder contains face_det.onnx and face_landmark.onnx.

        Raises:
            InputError: a file is missing, too large or damaged, or the weights do not match the sizes; names the file.
        """
        folder = Path(source)
        released = find_pd_fgc_file(folder)
        if released is not None:
            from fantasytalking.encoders.fantasy_portrait.tracker import FantasyPortraitNetworks

            faces = FantasyPortraitNetworks.from_folder(folder) if folder.is_dir() else None
            return cls(load_pd_fgc(released), device, faces)
        for name, limit in ((ENCODER_CONFIG_FILE, MAX_ENCODER_CONFIG_BYTES), (ENCODER_WEIGHTS_FILE, MAX_ENCODER_BYTES)):
            bounded_file(folder / name, "expression encoder", limit, "give another file", field=name)
        config = config_from_dict(
            ExpressionEncoderConfig, read_json(folder / ENCODER_CONFIG_FILE), str(folder / ENCODER_CONFIG_FILE)
        )
        stored = open_safetensors(folder / ENCODER_WEIGHTS_FILE)
        with torch.device("meta"):  # its sizes take no memory before the file is known to have them
            network = ExpressionNetwork(config)
        wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
        check_shapes(stored.shapes, wanted, f"expression encoder '{folder}'", "download it again")
        tensors = {name: stored.read(name) for name in wanted}
        check_finite(tensors, str(folder / ENCODER_WEIGHTS_FILE))
        network.load_state_dict(
            {name: tensor.to(torch.float32, copy=True) for name, tensor in tensors.items()}, assign=True
        )
        return cls(network, device)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Writes config.json and model.safetensors, completely or not at all; only for our own network."""
        assert isinstance(self.network, ExpressionNetwork), "the released network is not saved"
        with atomic_write(folder) as temporary:
            temporary.mkdir()
            state = self.network.state_dict()
            tensors = {name: value.to("cpu", dtype).contiguous() for name, value in state.items()}
            save_file(tensors, temporary / ENCODER_WEIGHTS_FILE, metadata={"format": "pt"})
            text = json.dumps(asdict(self.network.config), indent=1) + "\n"
            (temporary / ENCODER_CONFIG_FILE).write_text(text, encoding="utf-8")

    @property
    def dims(self) -> tuple[int, int, int, int]:
        """Number of features of head, eye, emotion and mouth."""
        return self.network.dims

    def point_tracker(self) -> PointTracker:
        """Returns a tracker of the alignment points of one person in one video; call it on the frames in order."""
        if self._face_networks is None:
            return lambda frames, points: points
        from fantasytalking.encoders.fantasy_portrait.tracker import FantasyPortraitFaceTracker

        return FantasyPortraitFaceTracker(self._face_networks).track

    def encode(
        self,
        frames: NDArray[np.uint8],
        points: NDArray[np.floating],
        reference_points: NDArray[np.floating] | None = None,
    ) -> ExpressionFeatures:
        """Returns the features of one person's face in every frame.

        Args:
            frames: (T, H, W, 3) uint8 RGB.
            points: (T, 5, 2) pixels (x, y): left eye, right eye, tip of the nose, left and right corner of the mouth,
                with left and right as in the image, from a `point_tracker`; NaN where there is no face.
            reference_points: (5, 2) points relative to which head motion is measured, for a video that is encoded in
                pieces; None uses those of the first frame with a face.

        Returns:
            The features, on the CPU.

        Raises:
            InputError: no frame has a face.
        """
        assert frames.ndim == 4 and frames.shape[3] == 3 and frames.dtype == np.uint8, "frames must be (T, H, W, 3)"
        assert points.shape == (len(frames), 5, 2), f"points must be ({len(frames)}, 5, 2), not {points.shape}"
        present = np.isfinite(points).all(axis=(1, 2))
        if not present.any():
            raise InputError(
                f"none of the {len(frames)} frames of the driving video shows the face; give another video",
                code=ErrorCode.no_face,
                field="points",
                value=len(frames),
            )
        with_face = np.flatnonzero(present)
        reference = points[with_face[0]] if reference_points is None else reference_points
        batches = np.array_split(with_face, -(-len(with_face) // _BATCH_SIZE))
        encoded = [self._encode(frames[batch], points[batch], reference) for batch in batches]
        last_with_face = np.maximum(np.cumsum(present) - 1, 0)
        return ExpressionFeatures(torch.cat(encoded)[torch.from_numpy(last_with_face)], torch.from_numpy(present))

    @torch.no_grad()
    def _encode(
        self, frames: NDArray[np.uint8], points: NDArray[np.floating], reference_points: NDArray[np.floating]
    ) -> Tensor:
        return self.network.encode_faces(frames, points, reference_points, self._device).cpu()


def find_pd_fgc_file(source: Path) -> Path | None:
    """Returns the released network's file: `source` itself, or a file in the folder `source`; None without one."""
    if source.suffix in PD_FGC_SUFFIXES:
        return source
    files = ((source / PD_FGC_FILE_STEM).with_suffix(suffix) for suffix in PD_FGC_SUFFIXES)
    return next((file for file in files if file.is_file()), None)


def copy_expression_encoder(source: Path, folder: Path) -> None:
    """Copies the encoder of `source` to `folder`, completely or not at all, for `from_pretrained`.

    Raises:
        InputError: as `from_pretrained`.
    """
    encoder, released = ExpressionEncoder.from_pretrained(source), find_pd_fgc_file(source)
    if released is None:
        encoder.save_pretrained(folder)
        return
    beside = sorted(source.glob("*.onnx")) if source.is_dir() else []
    with atomic_write(folder) as temporary:
        temporary.mkdir()
        target = (temporary / PD_FGC_FILE_STEM).with_suffix(released.suffix)
        if contains_pd_fgc(released):  # without the adapter beside it
            save_file({name: value.contiguous() for name, value in read_pd_fgc_tensors(released).items()}, target)
        else:
            shutil.copyfile(released, target)
        for file in beside:
            shutil.copyfile(file, temporary / file.name)
