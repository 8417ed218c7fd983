"""Reads, validates and writes the released audio checkpoint.

The checkpoint is a torch file of two parts, proj_model and audio_processor, or a safetensors file with the parts as
prefixes. Its tensors are those of the model's `audio` module. Ports for other programs have the same tensors, in other
dtypes, and leave out parts of the names: `audio_processor.` and `processor.`. Wan2GP has the projector in a file of its
own beside the other one.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.stored_tensors import LazyTensors
from fantasytalking.common.tensor_io import check_finite, check_shapes, open_parts, open_safetensors, write_parts
from fantasytalking.common.weight_files import without_prefix

RELEASED_AUDIO_PARTS = ("proj_model", "audio_processor")

PROJECTOR_FILE = "fantasy_proj_model.safetensors"
"""Wan2GP's file of the projector, beside that of the blocks; its names have no prefix."""
PORT_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "model.")
"""What ports put before all names."""

_PROJECTOR = {f"proj_model.{name}": f"audio_projector.{name}" for name in ("proj.weight", "norm.weight", "norm.bias")}
_BLOCK = re.compile(r"audio_processor\.blocks\.(\d+)\.cross_attn\.processor\.([kv])_proj\.weight")
_PORTED_BLOCK = re.compile(r"(?:audio_processor\.)?blocks\.(\d+)\.cross_attn\.(?:processor\.)?([kv])_proj\.weight")
_OUR_BLOCK = re.compile(r"blocks\.(\d+)\.attn2\.audio_([kv])_proj\.weight")


def open_released_audio(path: str | Path) -> LazyTensors:
    """Opens the released audio weights of .ckpt, .pt or .pth (two parts) or .safetensors (prefixes), flat.

    Quantized tensors are dequantized on reading, and those of ports have the released names. Where the file has no
    projector, it is that in `PROJECTOR_FILE` beside it.

    Raises:
        InputError: the file is not such a checkpoint, keys are missing, unexpected or duplicate, or shapes disagree.
    """
    path = Path(path)
    stored = without_prefix(open_parts(path, RELEASED_AUDIO_PARTS), PORT_PREFIXES)
    if (beside := projector_beside(path)) is not None:
        projector = open_safetensors(beside)
        names = {f"proj_model.{name.removeprefix('proj_model.')}": name for name in projector.shapes}
        stored = stored.joined(projector.renamed(names))
    stored = stored.renamed(_released_names(stored.shapes, str(path)))
    _check_shapes(stored.shapes, str(path))
    return stored


def read_released_audio(path: str | Path) -> dict[str, Tensor]:
    """Reads the released audio weights: see `open_released_audio`.

    Raises:
        InputError: as there, or tensors are not floating point and finite.
    """
    tensors = open_released_audio(path).read_all()
    check_finite(tensors, str(path))
    return tensors


def projector_beside(path: Path) -> Path | None:
    """Returns Wan2GP's second file where `path` is its first one; None for any other file or folder.

    Raises:
        InputError: a safetensors file is damaged.
    """
    beside = path.with_name(PROJECTOR_FILE)
    if path.suffix != ".safetensors" or not path.is_file() or path == beside or not beside.is_file():
        return None
    names = [name.removeprefix("audio_processor.") for name in open_safetensors(path).shapes]
    has_blocks = any(_PORTED_BLOCK.search(name) for name in names)
    return beside if has_blocks and not any(name.endswith("proj_model.proj.weight") for name in names) else None


def _released_names(names: Iterable[str], source: str) -> dict[str, str]:
    """Returns the present name of each tensor by its released one."""
    present: dict[str, str] = {}
    for name in names:
        block = _PORTED_BLOCK.fullmatch(name)
        released = _released_block(int(block[1]), block[2]) if block else name
        if released in present:
            raise InputError(
                f"'{source}' contains '{released}' twice, the second time as '{name}'; get the file again",
                code=ErrorCode.malformed_file,
                field=name,
            )
        present[released] = name
    return present


def write_released_audio(tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Writes flat released tensors as .ckpt, .pt or .pth (two parts) or .safetensors (flat), atomically.

    Raises:
        InputError: the suffix is not supported.
    """
    write_parts(tensors, path, RELEASED_AUDIO_PARTS)


def from_released_audio(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames released tensors to our names; the tensors are unchanged."""
    return {_our_name(name): value for name, value in tensors.items()}


def to_released_audio(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Renames tensors from our names to the released ones.

    Raises:
        InputError: the released format has no name for a tensor (face and motion).
    """
    projector = {ours: released for released, ours in _PROJECTOR.items()}
    renamed = {}
    for name, value in tensors.items():
        block = _OUR_BLOCK.fullmatch(name)
        if block:
            renamed[f"audio_processor.blocks.{block[1]}.cross_attn.processor.{block[2]}_proj.weight"] = value
        elif name in projector:
            renamed[projector[name]] = value
        else:
            raise InputError(
                f"the released audio format has no name for '{name}'; it stores audio without positions only",
                code=ErrorCode.unsupported,
                field=name,
            )
    return renamed


def check_released_audio(tensors: Mapping[str, Tensor], source: str) -> None:
    """Validates that flat released tensors are complete and consistent: blocks 0 to N - 1, one width, floating point.

    Raises:
        InputError: names the first tensor that does not fit.
    """
    _check_shapes({name: tuple(value.shape) for name, value in tensors.items()}, source)
    check_finite(tensors, source)


def _check_shapes(shapes: Mapping[str, tuple[int, ...]], source: str) -> None:
    blocks = {int(match[1]) for match in map(_BLOCK.fullmatch, shapes) if match}
    names = {*_PROJECTOR}
    names |= {_released_block(block, kind) for block in range(max(len(blocks), 1)) for kind in "kv"}
    hint = "it is not the released audio checkpoint; get it again from its source"
    if not any(name in shapes for name in _PROJECTOR) and blocks:
        hint = f"for Wan2GP's weights put {PROJECTOR_FILE} beside the file"
    token_dim, audio_dim = _matrix_shape(shapes.get("proj_model.proj.weight"))
    dim, _ = _matrix_shape(shapes.get(_released_block(0, "k")))
    expected: dict[str, tuple[int, ...]] = dict.fromkeys(names, (dim, token_dim))
    expected["proj_model.proj.weight"] = (token_dim, audio_dim)
    expected["proj_model.norm.weight"] = expected["proj_model.norm.bias"] = (token_dim,)
    check_shapes(shapes, expected, f"'{source}'", hint)


def _matrix_shape(shape: tuple[int, ...] | None) -> tuple[int, int]:
    """Rows and columns; zeros where it is no matrix."""
    return (shape[0], shape[1]) if shape is not None and len(shape) == 2 else (0, 0)


def _our_name(name: str) -> str:
    block = _BLOCK.fullmatch(name)
    return f"blocks.{block[1]}.attn2.audio_{block[2]}_proj.weight" if block else _PROJECTOR[name]


def _released_block(block: int, kind: str) -> str:
    return f"audio_processor.blocks.{block}.cross_attn.processor.{kind}_proj.weight"
