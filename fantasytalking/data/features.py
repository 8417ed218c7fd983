"""The contract of a clip's feature file: one safetensors with everything that training needs of a clip.

| key                 | shape       | type    | meaning |
|---------------------|-------------|---------|---------|
| latents             | (Z,F,h,w)   | float16 | normalised VAE latents of the clip (Z = 16 for Wan 2.1) |
| first_frame_latents | (Z,F,h,w)   | float16 | the same of [first frame, zeros ...] |
| text                | (T,D)       | float16 | umT5 states of the caption's real tokens, without padding |
| image               | (I,D)       | float16 | CLIP tokens of the first frame |
| audio               | (A,C)       | float16 | wav2vec2 tokens of the clip's own sound (C = 768 for wav2vec2-base) |
| frame_times         | (frames,)   | float64 | seconds from the clip's start at which each frame appears |
| face                | (P,512)     | float32 | ArcFace embeddings of the first frame's faces, of length 1 |
| lip_mask_causal     | (F,h,w)     | float16 | lip mask in [0,1], projected per causal latent group |
| lip_mask_trilinear  | (F,h,w)     | float16 | lip mask in [0,1], projected by trilinear interpolation (paper) |

Keys that a file may have besides, a group wholly or not at all:

| key                 | shape        | type    | meaning |
|---------------------|--------------|---------|---------|
| expression          | (P,frames,E) | float16 | expression features of every frame: head, eye, emotion, mouth |
| expression_present  | (P,frames)   | bool    | the face was seen; elsewhere `expression` holds the last that was |
| boxes               | (P,frames,4) | float32 | left, top, right, bottom of the face in pixels of the picture |
| speakers            | (P,A,C)      | float16 | wav2vec2 tokens of each person's own sound |

P people stand from left to right as in the first frame; where a face is not seen its box is the last known.
F = 1 + (frames - 1) / 4 latent frames of h x w. The metadata has the one key "fantasytalking", whose value is JSON:
{"config": hash of the settings, "format": 1}. (One key, because safetensors writes several in an order of chance.)
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fantasytalking.common.errors import InputError
from fantasytalking.common.files import atomic_write, existing_file
from fantasytalking.conditions import latent_frame_count

FEATURE_FORMAT = 1
METADATA_KEY = "fantasytalking"
MAX_FEATURE_BYTES = 1 << 30
"""1201 frames of 720x1280 have 140 MB of latents."""

_SHAPES = {
    "latents": ("Z", "F", "h", "w"),
    "first_frame_latents": ("Z", "F", "h", "w"),
    "text": ("T", "D_text"),
    "image": ("I", "D_image"),
    "audio": ("A", "C"),
    "frame_times": ("frames",),
    "face": ("P", "512"),
    "lip_mask_causal": ("F", "h", "w"),
    "lip_mask_trilinear": ("F", "h", "w"),
    "expression": ("P", "frames", "E"),
    "expression_present": ("P", "frames"),
    "boxes": ("P", "frames", "4"),
    "speakers": ("P", "A", "C"),
}
_OPTIONAL = (("expression", "expression_present", "boxes"), ("speakers",))
_DTYPES = {
    "frame_times": torch.float64,
    "face": torch.float32,
    "expression_present": torch.bool,
    "boxes": torch.float32,
}


@dataclass(frozen=True)
class ClipFeatures:
    """What a feature file holds; shapes and types stand at the head of this file."""

    latents: Tensor
    first_frame_latents: Tensor
    text: Tensor
    image: Tensor
    audio: Tensor
    frame_times: Tensor
    face: Tensor
    lip_mask_causal: Tensor
    lip_mask_trilinear: Tensor
    expression: Tensor | None = None
    expression_present: Tensor | None = None
    boxes: Tensor | None = None
    speakers: Tensor | None = None


def save_features(features: ClipFeatures, path: Path, config_hash: str) -> None:
    """Writes a feature file, whole or not at all; equal features give equal bytes.

    Raises:
        InputError: a tensor breaks the contract, or the file cannot be written.
    """
    tensors = {
        name: tensor.to("cpu", _DTYPES.get(name, torch.float16)).contiguous()
        for name, tensor in vars(features).items()
        if tensor is not None
    }
    _check(tensors, str(path))
    metadata = {METADATA_KEY: json.dumps({"config": config_hash, "format": FEATURE_FORMAT}, sort_keys=True)}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def load_features(path: str | Path) -> ClipFeatures:
    """Reads and checks a feature file.

    Raises:
        InputError: it is missing, over 1 GiB, damaged, of another format, or breaks the contract; names the key.
    """
    try:
        path = existing_file(path, "feature file")
        if path.stat().st_size > MAX_FEATURE_BYTES:
            raise InputError(f"feature file '{path}' has {path.stat().st_size} bytes; the limit is {MAX_FEATURE_BYTES}")
        with safe_open(path, framework="pt") as file:
            _check_metadata(file.metadata() or {}, path)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"feature file '{path}' is damaged ({error}); prepare the clip again") from error
    except OSError as error:  # of a file system that several machines share, for instance
        raise InputError(f"feature file '{path}' could not be read ({error}); check its file system") from error
    _check(tensors, str(path))
    return ClipFeatures(**tensors)


def _check_metadata(metadata: dict[str, str], path: Path) -> None:
    try:
        found = json.loads(metadata.get(METADATA_KEY, "{}")).get("format")
    except (json.JSONDecodeError, AttributeError):
        found = None
    if found != FEATURE_FORMAT:
        raise InputError(
            f"feature file '{path}' has format {found}; this version reads {FEATURE_FORMAT}; prepare it again"
        )


def _check(tensors: dict[str, Tensor], source: str) -> None:
    """Keys, types, shapes that agree with each other, and finite values."""
    _check_keys(tensors, source)
    sizes: dict[str, int] = {}
    for name, axes in _SHAPES.items():
        if name not in tensors:
            continue
        tensor, wanted = tensors[name], _DTYPES.get(name, torch.float16)
        if tensor.dtype != wanted:
            raise InputError(f"{source}: '{name}' is {tensor.dtype}; it must be {wanted}; prepare it again")
        fits = tensor.ndim == len(axes) and all(
            size > 0 and size == (int(axis) if axis.isdigit() else sizes.setdefault(axis, size))
            for axis, size in zip(axes, tensor.shape, strict=True)
        )
        if not fits:
            raise InputError(f"{source}: '{name}' has shape {tuple(tensor.shape)}; it must be {axes} with {sizes}")
        if not tensor.isfinite().all():
            raise InputError(f"{source}: '{name}' holds values that are not finite; prepare it again")
    if latent_frame_count(sizes["frames"]) != sizes["F"]:
        raise InputError(f"{source}: {sizes['frames']} frame times do not go with {sizes['F']} latent frames")


def _check_keys(tensors: dict[str, Tensor], source: str) -> None:
    """Every key that a file needs, none that is unknown, and groups of optional keys wholly or not at all."""
    absent = {name for group in _OPTIONAL if tensors.keys().isdisjoint(group) for name in group}
    wrong = sorted((tensors.keys() ^ _SHAPES.keys()) - absent)
    if wrong:
        raise InputError(
            f"{source}: '{wrong[0]}' {'misses' if wrong[0] in _SHAPES else 'is unknown'}; prepare it again"
        )


assert [field.name for field in fields(ClipFeatures)] == list(_SHAPES)
