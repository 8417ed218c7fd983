"""The finished pipeline in one folder: half precision, within the size that a repository bears."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from fantasytalking.common.errors import InputError
from fantasytalking.common.files import written_whole
from fantasytalking.inference.model_files import EXPRESSION_ADAPTER
from fantasytalking.nano.config import MAX_OUTPUT_BYTES, MAX_PORTRAIT_BYTES
from fantasytalking.nano.half_precision import halve
from fantasytalking.pipeline import FantasyTalkingPipeline
from fantasytalking.pipeline.loading import EXPRESSION_ENCODER
from fantasytalking.pipeline.schedulers import Sampler, make_scheduler

PREPROCESSOR = "preprocessor_config.json"


def pack(
    components: Path,
    adapter: Path,
    normaliser: Path,
    output: Path,
    portrait: Mapping[str, Any],
    text_length: int,
    shift: float,
) -> dict[str, Any]:
    """Writes base, adapter and encoders as one `FantasyTalkingPipeline` folder, whole or not at all.

    The folder serves as the pipeline, as the components of scripts/prepare_data.py and as the base of the training
    scripts.

    Raises:
        InputError: the result is larger than `MAX_OUTPUT_BYTES`; nothing is written then.
    """
    scheduler = make_scheduler(Sampler.euler, shift)
    pipeline = FantasyTalkingPipeline.from_base(
        components, adapter, portrait=portrait, text_length=text_length, scheduler=scheduler
    )
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            halve(part)
    with written_whole(output) as temporary:
        pipeline.save_pretrained(temporary)
        shutil.copyfile(normaliser, temporary / normaliser.name)
        # prepare_data looks for it beside the model, as transformers keeps it.
        shutil.copyfile(temporary / "audio_processor" / PREPROCESSOR, temporary / "audio_encoder" / PREPROCESSOR)
        sizes = {part.name: part_bytes(part) for part in sorted(temporary.iterdir())}
        check_size(sum(sizes.values()), output)
    return {"bytes": sum(sizes.values()), "parts": sizes}


def pack_portrait(encoder: Path, adapter: Path, output: Path) -> dict[str, Any]:
    """Adds what lets videos drive the faces of a finished pipeline: expression encoder and adapter, or none of both.

    Raises:
        InputError: they are larger than `MAX_PORTRAIT_BYTES` together, or there is no pipeline; nothing is written.
    """
    parts = {EXPRESSION_ENCODER: encoder, EXPRESSION_ADAPTER: adapter}
    sizes = {name: part_bytes(part) for name, part in parts.items()}
    if sum(sizes.values()) > MAX_PORTRAIT_BYTES:
        raise InputError(
            f"{' and '.join(parts)} of '{output}' would have {sum(sizes.values()) / 1e6:.1f} MB; the limit is "
            f"{MAX_PORTRAIT_BYTES / 1e6:.0f} MB: make the expression modules or the rank of the LoRA smaller"
        )
    if not output.is_dir():
        raise InputError(f"there is no pipeline at '{output}'; make it first: the step pack")
    for name, part in parts.items():
        with written_whole(output / name) as temporary:
            shutil.copytree(part, temporary)
    return {"bytes": sum(sizes.values()), "parts": sizes}


def part_bytes(part: Path) -> int:
    """Of a file, or of all files below a folder."""
    files = [part] if part.is_file() else [path for path in part.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files)


def check_size(size: int, output: Path) -> None:
    """Holds that a finished folder is no larger than the limit.

    Raises:
        InputError: it is.
    """
    if size > MAX_OUTPUT_BYTES:
        raise InputError(
            f"'{output}' would have {size / 1e6:.1f} MB; the limit is {MAX_OUTPUT_BYTES / 1e6:.0f} MB: "
            "make the transformer or an encoder smaller"
        )
