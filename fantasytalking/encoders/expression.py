"""The expression in a driving video as implicit features: head, eye, emotion and mouth of every frame.

The method's own encoder is PD-FGC, which reads the four from one aligned crop of the face, for users who have its file;
with the landmark networks beside it, the crop is where the released front end puts it. Ours is a small network of the
same kind. Axes: T frames, B crops.
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
from fantasytalking.common.errors import InputError
from fantasytalking.common.files import atomic_write, existing_file
from fantasytalking.common.tensor_io import check_finite, check_shapes, open_safetensors, read_json
from fantasytalking.encoders.face_alignment import SimilarityTransform, crop_aligned, estimate_similarity
from fantasytalking.encoders.fantasy_portrait.pd_fgc import PdFgcNetwork, load_pd_fgc

if TYPE_CHECKING:
    from fantasytalking.encoders.fantasy_portrait.tracker import FantasyPortraitNetworks

ENCODER_CONFIG_FILE, ENCODER_WEIGHTS_FILE = "config.json", "model.safetensors"
PD_FGC_SUFFIXES = (".pth", ".safetensors")
PD_FGC_FILE_STEM = "pd_fpg"
MAX_ENCODER_CONFIG_BYTES = 1 << 16
MAX_ENCODER_BYTES = 1 << 28
ENCODED_PARTS = ("head", "eye", "emotion", "mouth")
NUM_POSE_VALUES = 4
"""What is known of the crop's place beside its pixels: see `crop_pose_values`."""
_BATCH_SIZE = 32
_POSE_SCALE = 30.0
"""Heads turn and move by hundredths of a radian and of their size; the network is given numbers about 1."""


@dataclass
class ExpressionEncoderConfig:
    """Sizes of the network (config.json)."""

    dims: list[int] = field(default_factory=lambda: [6, 6, 8, 16])
    """Features of head, eye, emotion and mouth."""
    size: int = 64
    """Pixels of a side of the crop."""
    channels: list[int] = field(default_factory=lambda: [16, 32, 64, 96])
    """After each halving of the crop."""
    hidden: int = 64
    """Width of each part's hidden layer."""

    def validate(self) -> None:
        """Holds the sizes in their limits.

        Raises:
            InputError: a size that no such network has.
        """
        sound = {
            "dims": len(self.dims) == len(ENCODED_PARTS) and all(1 <= dim <= 1024 for dim in self.dims),
            "channels": 2 <= len(self.channels) <= 6 and all(8 <= c <= 512 and c % 8 == 0 for c in self.channels),
            "size": 16 <= self.size <= 256 and self.size % 2 ** len(self.channels) == 0,
            "hidden": 1 <= self.hidden <= 1024,
        }
        for name, fits in sound.items():
            if not fits:
                raise InputError(
                    f"expression encoder: {name} is {getattr(self, name)}, which this version cannot build"
                )


class ExpressionFeatures(NamedTuple):
    """What a driver's frames express."""

    features: Tensor
    """(T, D) float32: head, eye, emotion, mouth; a frame without a face repeats the last one that has one, or the
    first where none was before."""
    present: Tensor
    """(T,) bool: the frame has a face."""


PointTracker = Callable[[NDArray[np.uint8], NDArray[np.floating]], NDArray[np.floating]]
"""The next frames (T, H, W, 3) of a video and points (T, 5, 2) of a face to the points that its crops are put by."""


class _Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut, at half the resolution."""

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
    """Crops and their places to features: a shared trunk and one head a part; the place is the head pose's alone."""

    def __init__(self, config: ExpressionEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = nn.Sequential(*(_Residual(*pair) for pair in pairwise([3, *config.channels])))
        side = config.size // 2 ** len(config.channels)
        seen = config.channels[-1] * side * side
        known = {part: NUM_POSE_VALUES if part == "head" else 0 for part in ENCODED_PARTS}
        self.hidden = nn.ModuleDict({part: nn.Linear(seen, config.hidden) for part in ENCODED_PARTS})
        self.last = nn.ModuleDict(
            {
                part: nn.Linear(config.hidden + known[part], dim)
                for part, dim in zip(ENCODED_PARTS, config.dims, strict=True)
            }
        )

    @property
    def dims(self) -> tuple[int, int, int, int]:
        """Features of head, eye, emotion and mouth."""
        head, eye, emotion, mouth = self.config.dims
        return head, eye, emotion, mouth

    def encode_faces(
        self,
        frames: NDArray[np.uint8],
        points: NDArray[np.floating],
        reference_points: NDArray[np.floating],
        device: torch.device,
    ) -> Tensor:
        """Features (T, D) of faces at (T, 5, 2) points, the head's movement counted from (5, 2) points at the start."""
        places = estimate_similarity(points)
        crops = crop_aligned(frames, places, self.config.size)
        features: Tensor = self(
            crops.to(device), crop_pose_values(places, estimate_similarity(reference_points[None])).to(device)
        )
        return features

    def forward(self, crops: Tensor, pose_values: Tensor) -> Tensor:
        """(B, 3, size, size) in [-1, 1] and (B, 4) `crop_pose_values` to (B, sum of dims)."""
        seen = self.trunk(crops).flatten(1)
        hidden = {part: F.silu(self.hidden[part](seen)) for part in ENCODED_PARTS}
        hidden["head"] = torch.cat([hidden["head"], pose_values], dim=1)
        return torch.cat([self.last[part](hidden[part]) for part in ENCODED_PARTS], dim=1)


def crop_pose_values(transforms: SimilarityTransform, reference: SimilarityTransform) -> Tensor:
    """How a head is tilted, and how it has moved from where it began: (T, 4) float32, thirtieths.

    The tilt in radians, the logarithm of the size over that at the start, and the way right and down in sizes at the
    reference (one size is the crop's side). So neither the picture's resolution nor where somebody sits in it matters.

    Args:
        transforms: of the crops.
        reference: one place, or one for each crop.
    """
    turn, size = transforms.scale_rotation, np.abs(reference.scale_rotation)
    way = (transforms.center - reference.center) / size
    values = np.stack([np.angle(turn), np.log(np.abs(turn) / size), way.real, way.imag], axis=1)
    return torch.from_numpy(values * _POSE_SCALE).float()


class ExpressionEncoder:
    """The frozen network with what comes before and after it."""

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
        """The encoder that `save_pretrained` wrote into the folder `source`, or the released one.

        That is the file `source` alone, or a folder's pd_fpg.pth or pd_fpg.safetensors, with the released landmark
        networks where face_det.onnx and face_landmark.onnx are beside it.

        Raises:
            InputError: a file is missing, too large or damaged, or the weights are not those of the sizes; says which.
        """
        folder = Path(source)
        released = find_pd_fgc_file(folder)
        if released is not None:
            from fantasytalking.encoders.fantasy_portrait.tracker import FantasyPortraitNetworks

            faces = FantasyPortraitNetworks.from_folder(folder) if folder.is_dir() else None
            return cls(load_pd_fgc(released), device, faces)
        for name, limit in ((ENCODER_CONFIG_FILE, MAX_ENCODER_CONFIG_BYTES), (ENCODER_WEIGHTS_FILE, MAX_ENCODER_BYTES)):
            size = existing_file(folder / name, "expression encoder").stat().st_size
            if size > limit:
                raise InputError(f"expression encoder '{folder / name}' has {size} bytes; the limit is {limit}")
        config = config_from_dict(
            ExpressionEncoderConfig, read_json(folder / ENCODER_CONFIG_FILE), str(folder / ENCODER_CONFIG_FILE)
        )
        stored = open_safetensors(folder / ENCODER_WEIGHTS_FILE)
        network = ExpressionNetwork(config)
        wanted = {name: tuple(value.shape) for name, value in network.state_dict().items()}
        check_shapes(stored.shapes, wanted, f"expression encoder '{folder}'", "get it again from its source")
        tensors = {name: stored.read(name) for name in wanted}
        check_finite(tensors, str(folder / ENCODER_WEIGHTS_FILE))
        network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        return cls(network, device)

    def save_pretrained(self, folder: str | Path, dtype: torch.dtype = torch.float16) -> None:
        """Writes config.json and model.safetensors, whole or not at all; of our own network alone."""
        assert isinstance(self.network, ExpressionNetwork), "the released network has its own file"
        with atomic_write(folder) as temporary:
            temporary.mkdir()
            state = self.network.state_dict()
            tensors = {name: value.to("cpu", dtype).contiguous() for name, value in state.items()}
            save_file(tensors, temporary / ENCODER_WEIGHTS_FILE, metadata={"format": "pt"})
            told = json.dumps(asdict(self.network.config), indent=1) + "\n"
            (temporary / ENCODER_CONFIG_FILE).write_text(told, encoding="utf-8")

    @property
    def dims(self) -> tuple[int, int, int, int]:
        """Features of head, eye, emotion and mouth."""
        return self.network.dims

    def point_tracker(self) -> PointTracker:
        """What tells where the crops of one person in one video are: to be called for its frames in their order."""
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
        """The features of one person's face in every frame.

        Args:
            frames: (T, H, W, 3) RGB.
            points: (T, 5, 2) pixels (x, y): left eye, right eye, tip of the nose, left and right corner of the mouth,
                as they stand in the picture, by a `point_tracker`; NaN where there is no face.
            reference_points: (5, 2) points from which the head's movement counts, for a video that is encoded piece by
                piece; None: those of the first frame that has a face.

        Returns:
            on the CPU.

        Raises:
            InputError: no frame has a face.
        """
        assert frames.ndim == 4 and frames.shape[3] == 3 and frames.dtype == np.uint8, "frames must be (T, H, W, 3)"
        assert points.shape == (len(frames), 5, 2), f"points must be ({len(frames)}, 5, 2), not {points.shape}"
        present = np.isfinite(points).all(axis=(1, 2))
        if not present.any():
            raise InputError(f"none of the driver's {len(frames)} frames shows the face; give a video that does")
        seen = np.flatnonzero(present)
        first = points[seen[0]] if reference_points is None else reference_points
        batches = np.array_split(seen, -(-len(seen) // _BATCH_SIZE))
        found = [self._encode(frames[batch], points[batch], first) for batch in batches]
        carried = np.maximum(np.cumsum(present) - 1, 0)
        return ExpressionFeatures(torch.cat(found)[torch.from_numpy(carried)], torch.from_numpy(present))

    @torch.no_grad()
    def _encode(
        self, frames: NDArray[np.uint8], points: NDArray[np.floating], reference_points: NDArray[np.floating]
    ) -> Tensor:
        return self.network.encode_faces(frames, points, reference_points, self._device).cpu()


def find_pd_fgc_file(source: Path) -> Path | None:
    """The released network that `source` is or, a folder, holds; None where it is or holds none."""
    if source.suffix in PD_FGC_SUFFIXES:
        return source
    files = ((source / PD_FGC_FILE_STEM).with_suffix(suffix) for suffix in PD_FGC_SUFFIXES)
    return next((file for file in files if file.is_file()), None)


def copy_expression_encoder(source: Path, folder: Path) -> None:
    """Writes the encoder of `source` into `folder`, whole or not at all, so that `from_pretrained` reads it there.

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
        shutil.copyfile(released, (temporary / PD_FGC_FILE_STEM).with_suffix(released.suffix))
        for file in beside:
            shutil.copyfile(file, temporary / file.name)
