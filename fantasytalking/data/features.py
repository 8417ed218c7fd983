"""Reads and writes the feature file of a clip: a safetensors file with everything that training needs.

| key                 | shape       | type    | meaning |
|---------------------|-------------|---------|---------|
| latents             | (Z,F,h,w)   | float16 | normalized VAE latents of the clip (Z = 16 for Wan 2.1) |
| first_frame_latents | (Z,F,h,w)   | float16 | normalized VAE latents of [first frame, zeros ...] |
| text                | (T,D)       | float16 | umT5 states of the caption's tokens, without padding |
| audio               | (A,C)       | float16 | tokens of the clip's audio (C = 768 for wav2vec2-base) |
| frame_times         | (frames,)   | float64 | seconds from the clip's start at which each frame appears |
| face                | (P,512)     | float32 | ArcFace embeddings of the first frame's faces, of length 1 |
| lip_mask_causal     | (F,h,w)     | float16 | lip mask in [0,1], projected per causal latent group |
| lip_mask_trilinear  | (F,h,w)     | float16 | lip mask in [0,1], projected by trilinear interpolation (paper) |

Optional keys; each group is complete or absent:

| key                 | shape        | type    | meaning |
|---------------------|--------------|---------|---------|
| image               | (I,D)        | float16 | CLIP tokens of the first frame, for bases that attend to them |
| expression          | (P,frames,E) | float16 | expression features of every frame: head, eye, emotion, mouth |
| expression_present  | (P,frames)   | bool    | the face is visible; elsewhere `expression` repeats the last one |
| boxes               | (P,frames,4) | float32 | left, top, right, bottom of the face in pixels of the prepared frames |
| speakers            | (P,A,C)      | float16 | audio tokens of each person's speech |

The P people are ordered from left to right as in the first frame; if a face is not visible, its box is the last known
one. There are F = 1 + (frames - 1) / s latent frames of h x w, where s is the temporal stride of the VAE. The metadata
has the single key "fantasytalking", whose value is JSON: {"config": hash of the settings, "format": 1,
"audio_encoder": `AudioEncoderSpec`}. (safetensors writes several keys in random order.) Files of earlier releases lack
the audio encoder, which was wav2vec2.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fantasytalking.audio_tokens import AudioEncoderSpec
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write, bounded_file
from fantasytalking.common.limits import MAX_FEATURE_BYTES
from fantasytalking.condition_specs import CONDITIONS

FEATURE_FORMAT = 1
METADATA_KEY = "fantasytalking"

_OPTIONAL = (("image",), ("expression", "expression_present", "boxes"), ("speakers",))
_DTYPES = {
    "frame_times": torch.float64,
    "face": torch.float32,
    "expression_present": torch.bool,
    "boxes": torch.float32,
}


@dataclass(frozen=True)
class ClipFeatures:
    """The content of a feature file; the module's docstring lists shapes and types of its tensors."""

    latents: Tensor
    first_frame_latents: Tensor
    text: Tensor
    audio: Tensor
    frame_times: Tensor
    face: Tensor
    lip_mask_causal: Tensor
    lip_mask_trilinear: Tensor
    image: Tensor | None = None
    expression: Tensor | None = None
    expression_present: Tensor | None = None
    boxes: Tensor | None = None
    speakers: Tensor | None = None
    audio_encoder: AudioEncoderSpec | None = None
    """The encoder of `audio` and `speakers`; a loaded file always has one."""

    def tensors(self) -> dict[str, Tensor]:
        """Returns the tensors by their keys, without absent ones."""
        return {name: getattr(self, name) for name in _SHAPES if getattr(self, name) is not None}


_AXES = {
    "latents": ("Z", "F", "h", "w"),
    "frame_times": ("frames",),
    "lip_mask_causal": ("F", "h", "w"),
    "lip_mask_trilinear": ("F", "h", "w"),
    **{name: axes for spec in CONDITIONS for name, axes in spec.features.items()},
}
_SHAPES = {item.name: _AXES[item.name] for item in fields(ClipFeatures) if item.name != "audio_encoder"}


def save_features(features: ClipFeatures, path: Path, config_hash: str) -> None:
    """Writes a feature file, completely or not at all; equal features give equal bytes.

    Args:
        features: the tensors of the clip.
        path: the output file.
        config_hash: `PreparationConfig.fingerprint()`, stored in the metadata.

    Raises:
        InputError: a tensor has a wrong shape or value, or the file cannot be written.
    """
    tensors = {
        name: tensor.to("cpu", _DTYPES.get(name, torch.float16)).contiguous()
        for name, tensor in features.tensors().items()
    }
    _check(tensors, str(path))
    description: dict[str, Any] = {"config": config_hash, "format": FEATURE_FORMAT}
    if features.audio_encoder is not None:
        description["audio_encoder"] = features.audio_encoder.to_dict()
    metadata = {METADATA_KEY: json.dumps(description, sort_keys=True)}
    with atomic_write(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def load_features(path: str | Path) -> ClipFeatures:
    """Reads and checks a feature file.

    Raises:
        InputError: the file is missing, larger than 1 GiB, damaged or of another format, or a tensor has a wrong shape,
            type or value; `field` is the key.
    """
    with _open_features(path) as (file, description):
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    _check(tensors, str(path))
    return ClipFeatures(**tensors, audio_encoder=_audio_encoder(description, tensors["audio"].shape[-1], path))


def read_audio_encoder(path: str | Path) -> AudioEncoderSpec:
    """Returns the audio encoder of a feature file, of which only the header is read.

    Raises:
        InputError: the file is missing, damaged or of another format, or has no audio.
    """
    with _open_features(path) as (file, description):
        shape = file.get_slice("audio").get_shape() if "audio" in file.keys() else []  # noqa: SIM118
    if len(shape) != len(_SHAPES["audio"]):
        raise _malformed(str(path), "audio", f"has shape {tuple(shape)}", tuple(shape))
    return _audio_encoder(description, shape[-1], path)


@contextmanager
def _open_features(path: str | Path) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Context with the open file and its checked metadata."""
    try:
        path = bounded_file(path, "feature file", MAX_FEATURE_BYTES, "prepare the clip again", field="path")
        with safe_open(path, framework="pt") as file:
            yield file, _read_description(file.metadata() or {}, path)
    except SafetensorError as error:
        raise InputError(
            f"feature file '{path}' is damaged ({error}); delete it and prepare the corpus again",
            code=ErrorCode.malformed_file,
            field="path",
            value=str(path),
        ) from error
    except OSError as error:  # for instance of a network file system
        raise InputError(
            f"feature file '{path}' cannot be read ({error}); check its file system",
            code=ErrorCode.missing_file,
            field="path",
            value=str(path),
        ) from error


def _audio_encoder(description: dict[str, Any], channels: int, path: str | Path) -> AudioEncoderSpec:
    if "audio_encoder" not in description:
        return AudioEncoderSpec.unrecorded(channels)
    spec = AudioEncoderSpec.from_dict(description["audio_encoder"], str(path))
    if spec.dim != channels:
        raise _malformed(str(path), "audio", f"has {channels} channels, its encoder has {spec.dim}", channels)
    return spec


def _read_description(metadata: dict[str, str], path: Path) -> dict[str, Any]:
    try:
        description = json.loads(metadata.get(METADATA_KEY, "{}"))
        found = description.get("format")
    except (json.JSONDecodeError, AttributeError, RecursionError):
        description, found = {}, None
    if found != FEATURE_FORMAT:
        raise InputError(
            f"feature file '{path}' has format {found}; this version reads format {FEATURE_FORMAT}; prepare it again",
            code=ErrorCode.malformed_file,
            field="format",
            value=found,
        )
    return dict(description)


def _check(tensors: dict[str, Tensor], source: str) -> None:
    """Checks keys, types, consistent shapes and finite values."""
    _check_keys(tensors, source)
    sizes: dict[str, int] = {}
    for name, axes in _SHAPES.items():
        if name not in tensors:
            continue
        tensor, wanted = tensors[name], _DTYPES.get(name, torch.float16)
        if tensor.dtype != wanted:
            raise _malformed(source, name, f"has type {tensor.dtype}; it must be {wanted}", tensor.dtype)
        fits = tensor.ndim == len(axes) and all(
            size > 0 and size == (int(axis) if axis.isdigit() else sizes.setdefault(axis, size))
            for axis, size in zip(axes, tensor.shape, strict=True)
        )
        if not fits:
            shape = tuple(tensor.shape)
            raise _malformed(source, name, f"has shape {shape}; it must be {axes} with {sizes}", shape)
        if not tensor.isfinite().all():
            raise _malformed(source, name, "has values that are NaN or infinite")
    if sizes["frames"] - 1 and (sizes["F"] < 2 or (sizes["frames"] - 1) % (sizes["F"] - 1)):
        problem = f"has {sizes['frames']} entries for {sizes['F']} latent frames; there must be 1 + s (F - 1)"
        raise _malformed(source, "frame_times", problem, sizes["frames"])


def _malformed(source: str, name: str, problem: str, value: object = None) -> InputError:
    return InputError(
        f"{source}: '{name}' {problem}; delete it and prepare the corpus again",
        code=ErrorCode.malformed_file,
        field=name,
        value=value,
    )


def _check_keys(tensors: dict[str, Tensor], source: str) -> None:
    """Checks that all required keys and only known ones exist, and that groups of optional keys are complete."""
    absent = {name for group in _OPTIONAL if tensors.keys().isdisjoint(group) for name in group}
    wrong = sorted((tensors.keys() ^ _SHAPES.keys()) - absent)
    if wrong:
        raise _malformed(source, wrong[0], "is missing" if wrong[0] in _SHAPES else "is unknown")
