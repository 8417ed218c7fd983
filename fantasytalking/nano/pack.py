"""Writes the finished pipeline to one folder, in half precision and within a size limit for repositories."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write
from fantasytalking.encoders.encoder_folders import EXPRESSION_ENCODER_FOLDER
from fantasytalking.inference.model_sources import EXPRESSION_ADAPTER_FOLDER
from fantasytalking.nano.config import MAX_PIPELINE_BYTES, MAX_PORTRAIT_PARTS_BYTES
from fantasytalking.nano.half_precision import to_half_precision
from fantasytalking.pipeline import FantasyTalkingPipeline
from fantasytalking.pipeline.schedulers import SchedulerType, make_scheduler

PREPROCESSOR_FILE = "preprocessor_config.json"


def write_pipeline(
    components: Path,
    adapter: Path,
    normalizer: Path,
    output: Path,
    portrait: Mapping[str, Any],
    max_text_tokens: int,
    flow_shift: float,
) -> dict[str, Any]:
    """Writes base, adapter and encoders as one `FantasyTalkingPipeline` folder, completely or not at all.

    The folder can be used as a pipeline and as the base of scripts/prepare_data.py and of the training scripts.

    Args:
        components: folder of the base and the encoders.
        adapter: folder of the trained adapter.
        normalizer: file of the motion normalizer.
        output: folder of the pipeline.
        portrait: configuration of the portrait modules.
        max_text_tokens: tokens that prompts are padded to.
        flow_shift: shift of the noise levels of the scheduler.

    Returns:
        "bytes", the size of the folder, and "parts", the size of each entry in it.

    Raises:
        InputError: the result is larger than `MAX_PIPELINE_BYTES`; nothing is written then.
    """
    scheduler = make_scheduler(SchedulerType.euler, flow_shift)
    pipeline = FantasyTalkingPipeline.from_base(
        components, adapter, module_config=portrait, text_length=max_text_tokens, scheduler=scheduler
    )
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            to_half_precision(part)
    with atomic_write(output) as temporary:
        pipeline.save_pretrained(temporary)
        shutil.copyfile(normalizer, temporary / normalizer.name)
        # prepare_data expects it next to the model, where transformers stores it.
        shutil.copyfile(
            temporary / "audio_processor" / PREPROCESSOR_FILE, temporary / "audio_encoder" / PREPROCESSOR_FILE
        )
        sizes = {part.name: size_in_bytes(part) for part in sorted(temporary.iterdir())}
        check_pipeline_size(sum(sizes.values()), output)
    return {"bytes": sum(sizes.values()), "parts": sizes}


def write_portrait_parts(encoder: Path, adapter: Path, output: Path) -> dict[str, Any]:
    """Adds the expression encoder and the expression adapter to a finished pipeline.

    Returns:
        "bytes", their size together, and "parts", the size of each.

    Raises:
        InputError: together they are larger than `MAX_PORTRAIT_PARTS_BYTES`, or `output` does not exist; nothing is
            written then.
    """
    parts = {EXPRESSION_ENCODER_FOLDER: encoder, EXPRESSION_ADAPTER_FOLDER: adapter}
    sizes = {name: size_in_bytes(part) for name, part in parts.items()}
    if sum(sizes.values()) > MAX_PORTRAIT_PARTS_BYTES:
        raise InputError(
            f"{' and '.join(parts)} of '{output}' would have {sum(sizes.values()) / 1e6:.1f} MB; the limit is "
            f"{MAX_PORTRAIT_PARTS_BYTES / 1e6:.0f} MB: reduce the expression modules or the rank of the LoRA",
            code=ErrorCode.out_of_range,
            field="output",
            value=sum(sizes.values()),
        )
    if not output.is_dir():
        raise InputError(
            f"there is no pipeline at '{output}'; run the step pack first",
            code=ErrorCode.missing_file,
            field="output",
            value=str(output),
        )
    for name, part in parts.items():
        with atomic_write(output / name) as temporary:
            shutil.copytree(part, temporary)
    return {"bytes": sum(sizes.values()), "parts": sizes}


def size_in_bytes(file_or_folder: Path) -> int:
    """Returns the size of a file, or of all files below a folder."""
    files = (
        [file_or_folder] if file_or_folder.is_file() else [path for path in file_or_folder.rglob("*") if path.is_file()]
    )
    return sum(path.stat().st_size for path in files)


def check_pipeline_size(size: int, output: Path) -> None:
    """Checks that a pipeline of `size` bytes is within the limit.

    Raises:
        InputError: `size` is larger than `MAX_PIPELINE_BYTES`.
    """
    if size > MAX_PIPELINE_BYTES:
        raise InputError(
            f"'{output}' would have {size / 1e6:.1f} MB; the limit is {MAX_PIPELINE_BYTES / 1e6:.0f} MB: "
            "reduce the transformer or an encoder",
            code=ErrorCode.out_of_range,
            field="output",
            value=size,
        )
