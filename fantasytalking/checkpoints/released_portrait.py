"""Reads, validates and writes the released FantasyPortrait checkpoint and its flat port.

The released file is a torch file of four parts, proj_model, mouth_proj_model, emo_proj_model and ip_adapter. The flat
port is safetensors with the parts as prefixes and without `processor.` in the blocks' names. Both have the same
tensors, which are those of the model's `expression` module.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from fantasytalking.checkpoints.adapter import AdapterConfig
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.stored_tensors import LazyTensors
from fantasytalking.common.tensor_io import (
    PICKLE_SUFFIXES,
    check_finite,
    check_shapes,
    open_parts,
    open_safetensors,
    write_parts,
)
from fantasytalking.common.torch_file import read_pickle
from fantasytalking.models.expression_config import EXPRESSION_FEATURE_PARTS, ExpressionModuleConfig

RELEASED_PORTRAIT_PARTS = ("proj_model", "mouth_proj_model", "emo_proj_model", "ip_adapter")
ENCODER_PREFIX = "pd_fpg."
"""Beginning of the names of the expression encoder, which some ports contain."""
RELEASED_RESAMPLER_HEAD_DIM = 64
"""Head width of the released resamplers; the number of heads does not follow from the shapes."""
RELEASED_PADDING_MODE = "attended"
"""Treatment of padding that the released weights were trained with."""

_PLAIN = {"headpose": "head", "eye": "eye", "emo": "emotion", "mouth": "mouth"}
_LEARNED = {"mouth_proj_model": "mouth", "emo_proj_model": "emotion"}
_RESAMPLER = {
    "latents": "queries",
    "proj_in.weight": "input.weight",
    "proj_in.bias": "input.bias",
    "proj_out.weight": "output.weight",
    "proj_out.bias": "output.bias",
    "norm_out.weight": "output_norm.weight",
    "norm_out.bias": "output_norm.bias",
}
_LAYER = {
    "0.norm1.weight": "input_norm.weight",
    "0.norm1.bias": "input_norm.bias",
    "0.norm2.weight": "query_norm.weight",
    "0.norm2.bias": "query_norm.bias",
    "0.to_q.weight": "to_query.weight",
    "0.to_kv.weight": "to_key_value.weight",
    "0.to_out.weight": "to_out.weight",
    "1.0.weight": "feed_forward.0.weight",
    "1.0.bias": "feed_forward.0.bias",
    "1.1.weight": "feed_forward.1.weight",
    "1.3.weight": "feed_forward.3.weight",
}
_BLOCK = re.compile(
    r"ip_adapter\.blocks\.(\d+)\.cross_attn\.(?:processor\.)?ip_adapter_single_stream_([kv])_proj\.weight"
)
_OUR_BLOCK = re.compile(r"blocks\.(\d+)\.attn2\.expression_([kv])_proj\.weight")
_LAYER_NAME = re.compile(r"(mouth_proj_model|emo_proj_model)\.layers\.(\d+)\.(.+)")


def is_released_portrait(path: Path) -> bool:
    """Whether a file is a released expression adapter, by its part `ip_adapter`.

    Raises:
        InputError: a torch file is damaged or contains anything but tensors.
    """
    if path.suffix == ".safetensors":
        return any(name.startswith("ip_adapter.") for name in open_safetensors(path).shapes)
    if path.suffix not in PICKLE_SUFFIXES:
        return False
    loaded = read_pickle(path, mapped=True)
    return isinstance(loaded, Mapping) and "ip_adapter" in loaded


def open_released_expression(path: str | Path) -> LazyTensors:
    """Opens the released expression weights of a torch file of four parts or the flat port, in our names.

    An encoder in the port (`ENCODER_PREFIX`) is left to `encoders.fantasy_portrait.pd_fgc.load_pd_fgc`.

    Raises:
        InputError: the file is not such a checkpoint, keys are missing or unexpected, or shapes disagree.
    """
    stored = open_parts(path, RELEASED_PORTRAIT_PARTS)
    return in_our_names(stored.renamed({name: name for name in stored.shapes if not name.startswith(ENCODER_PREFIX)}))


def read_released_expression(path: str | Path) -> dict[str, Tensor]:
    """Reads the released expression weights: see `open_released_expression`.

    Raises:
        InputError: as there, or tensors are not floating point and finite.
    """
    tensors = open_released_expression(path).read_all()
    check_finite(tensors, str(path))
    return tensors


def write_released_expression(tensors: Mapping[str, Tensor], path: str | Path) -> int:
    """Writes tensors in our names as .ckpt, .pt or .pth (four parts) or .safetensors (the flat port).

    Returns:
        Number of tensors.

    Raises:
        InputError: the suffix is not supported, or the released format has no name for a tensor.
    """
    released = to_released_expression(tensors, flat=Path(path).suffix == ".safetensors")
    write_parts(released, path, RELEASED_PORTRAIT_PARTS)
    return len(released)


def in_our_names(released: LazyTensors) -> LazyTensors:
    """Renames released tensors, in either form, to our names; the tensors are unchanged.

    Raises:
        InputError: keys are missing, unexpected or duplicate, or shapes disagree.
    """
    names: dict[str, str] = {}
    for name in released.shapes:
        ours = _our_name(name)
        if ours is None or ours in names:
            raise InputError(
                f"'{released.source}': the tensor '{name}' is {'unknown' if ours is None else 'a duplicate'}; get it "
                "again",
                code=ErrorCode.malformed_file,
                field=name,
            )
        names[ours] = name
    renamed = released.renamed(names)
    _check_shapes(renamed.shapes, released.source)
    return renamed


def to_released_expression(tensors: Mapping[str, Tensor], flat: bool) -> dict[str, Tensor]:
    """Renames tensors from our names to the released ones, or to those of the flat port.

    Raises:
        InputError: the released format has no name for a tensor, such as learned tokens of head and eye.
    """
    _check_shapes({name: tuple(value.shape) for name, value in tensors.items()}, "the adapter")
    check_finite(tensors, "the adapter")
    return {_released_name(name, flat): value for name, value in tensors.items()}


def released_expression_config(
    shapes: Mapping[str, tuple[int, ...]], source: str, head_dim: int = RELEASED_RESAMPLER_HEAD_DIM
) -> ExpressionModuleConfig:
    """Infers sizes from the shapes of complete tensors in our names; `head_dim` does not follow from them.

    Raises:
        InputError: the width of the resamplers is not a multiple of `head_dim`.
    """
    inner = shapes["expression_projector.learned.mouth.layers.0.to_query.weight"][0]
    if inner % head_dim:
        raise InputError(
            f"'{source}': the resamplers' width is {inner}; it must be a multiple of the head width {head_dim}",
            code=ErrorCode.shape_mismatch,
            field="head_dim",
            value=inner,
        )
    queries = {part: shapes[f"expression_projector.learned.{part}.queries"] for part in _LEARNED.values()}
    plain = {part: shapes[f"expression_projector.plain.{part}.weight"] for part in EXPRESSION_FEATURE_PARTS}
    return ExpressionModuleConfig(
        dims=(plain["head"][1], plain["eye"][1], plain["emotion"][1], plain["mouth"][1]),
        learned=(0, 0, queries["emotion"][1], queries["mouth"][1]),
        token_dim=plain["head"][0],
        width=queries["mouth"][2],
        depth=_depth(shapes),
        heads=inner // head_dim,
        head_dim=head_dim,
        padding=RELEASED_PADDING_MODE,
    )


def released_adapter_config(shapes: Mapping[str, tuple[int, ...]], source: str) -> AdapterConfig:
    """Returns the configuration of an adapter of released weights: padding attended, heads of width 64.

    Raises:
        InputError: as `released_expression_config`.
    """
    return AdapterConfig(
        modules=["expression"],
        audio_window="official",
        expression=released_expression_config(shapes, source).to_dict(),
    )


def _check_shapes(shapes: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Checks that tensors in our names are a complete, consistent released adapter."""
    expected = _expected_shapes(shapes, source)
    check_shapes(shapes, expected, f"'{source}'", "it is not a released portrait checkpoint; get it again")


def _expected_shapes(shapes: Mapping[str, tuple[int, ...]], source: str) -> dict[str, tuple[int, ...]]:
    """Returns every required name with the shape that follows from related tensors."""

    def shape(name: str, axes: int) -> tuple[int, ...]:
        found = shapes.get(name)
        if found is None or len(found) != axes or 0 in found:
            raise InputError(
                f"'{source}' has no tensor '{name}' with {axes} axes; it is not a released portrait checkpoint",
                code=ErrorCode.shape_mismatch,
                field=name,
                value=found,
            )
        return found

    token_dim = shape("expression_projector.norm.weight", 1)[0]
    expected: dict[str, tuple[int, ...]] = {
        "expression_projector.norm.weight": (token_dim,),
        "expression_projector.norm.bias": (token_dim,),
    }
    for part in _PLAIN.values():
        name = f"expression_projector.plain.{part}.weight"
        expected[name] = (token_dim, shape(name, 2)[1])
    width = shape("expression_projector.learned.mouth.queries", 3)[2]
    inner = shape("expression_projector.learned.mouth.layers.0.to_query.weight", 2)[0]
    for part in _LEARNED.values():
        prefix = f"expression_projector.learned.{part}"
        tokens = shape(f"{prefix}.queries", 3)[1]
        part_dim = expected[f"expression_projector.plain.{part}.weight"][1]
        expected |= _resampler_shapes(prefix, tokens, part_dim, width, inner, token_dim, _depth(shapes))
    dim = shape("blocks.0.attn2.expression_k_proj.weight", 2)[0]
    blocks = {int(match[1]) for match in map(_OUR_BLOCK.fullmatch, shapes) if match}
    for block in range(len(blocks)):
        expected |= {f"blocks.{block}.attn2.expression_{kind}_proj.weight": (dim, token_dim) for kind in "kv"}
    return expected


def _resampler_shapes(
    prefix: str, tokens: int, part_dim: int, width: int, inner: int, token_dim: int, depth: int
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "queries": (1, tokens, width),
        "input.weight": (width, part_dim),
        "input.bias": (width,),
        "output.weight": (token_dim, width),
        "output.bias": (token_dim,),
        "output_norm.weight": (token_dim,),
        "output_norm.bias": (token_dim,),
    }
    layer: dict[str, tuple[int, ...]] = dict.fromkeys(_LAYER.values(), (width,))
    layer |= {"to_query.weight": (inner, width), "to_key_value.weight": (2 * inner, width)}
    layer |= {"to_out.weight": (width, inner)}
    layer |= {"feed_forward.1.weight": (4 * width, width), "feed_forward.3.weight": (width, 4 * width)}
    for number in range(depth):
        shapes |= {f"layers.{number}.{name}": shape for name, shape in layer.items()}
    return {f"{prefix}.{name}": shape for name, shape in shapes.items()}


def _depth(shapes: Mapping[str, tuple[int, ...]]) -> int:
    prefix = "expression_projector.learned.mouth.layers."
    return len({name.removeprefix(prefix).split(".")[0] for name in shapes if name.startswith(prefix)})


def _our_name(released: str) -> str | None:
    block = _BLOCK.fullmatch(released)
    if block:
        return f"blocks.{block[1]}.attn2.expression_{block[2]}_proj.weight"
    part, _, rest = released.partition(".")
    if part == "proj_model":
        stem, _, kind = rest.partition("_proj.")
        if rest in ("norm.weight", "norm.bias"):
            return f"expression_projector.{rest}"
        return f"expression_projector.plain.{_PLAIN[stem]}.weight" if stem in _PLAIN and kind == "weight" else None
    layer = _LAYER_NAME.fullmatch(released)
    if layer and layer[3] in _LAYER:
        return f"expression_projector.learned.{_LEARNED[layer[1]]}.layers.{layer[2]}.{_LAYER[layer[3]]}"
    if part in _LEARNED and rest in _RESAMPLER:
        return f"expression_projector.learned.{_LEARNED[part]}.{_RESAMPLER[rest]}"
    return None


def _released_name(ours: str, flat: bool) -> str:
    block = _OUR_BLOCK.fullmatch(ours)
    if block:
        processor = "" if flat else "processor."
        return f"ip_adapter.blocks.{block[1]}.cross_attn.{processor}ip_adapter_single_stream_{block[2]}_proj.weight"
    kind, _, rest = ours.removeprefix("expression_projector.").partition(".")
    if kind == "norm":
        return f"proj_model.norm.{rest}"
    part, _, leaf = rest.partition(".")
    if kind == "plain":
        return f"proj_model.{_inverted(_PLAIN)[part]}_proj.{leaf}"
    model = _inverted(_LEARNED)[part]
    if leaf in _RESAMPLER.values():
        return f"{model}.{_inverted(_RESAMPLER)[leaf]}"
    _, number, inner = leaf.split(".", 2)
    return f"{model}.layers.{number}.{_inverted(_LAYER)[inner]}"


def _inverted(names: Mapping[str, str]) -> dict[str, str]:
    return {value: key for key, value in names.items()}
