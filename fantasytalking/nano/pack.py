"""The finished pipeline in one folder: half precision, within the size that a repository bears."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from fantasytalking.common.errors import InputError
from fantasytalking.common.files import atomic_write
from fantasytalking.inference.model_sources import EXPRESSION_ADAPTER_FOLDER
from fantasytalking.nano.config import MAX_PIPELINE_BYTES, MAX_PORTRAIT_PARTS_BYTES
from fantasytalking.nano.half_precision import to_half_precision
from fantasytalking.pipeline import FantasyTalkingPipeline
from fantasytalking.pipeline.model_facts import EXPRESSION_ENCODER_FOLDER
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
    """Writes base, adapter and encoders as one `FantasyTalkingPipeline` folder, whole or not at all.

    The folder serves as the pipeline, as the components of scripts/prepare_data.py and as the base of the training
    scripts.

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
        # prepare_data looks for it beside the model, as transformers keeps it.
        shutil.copyfile(
            temporary / "audio_processor" / PREPROCESSOR_FILE, temporary / "audio_encoder" / PREPROCESSOR_FILE
        )
        sizes = {part.name: size_in_bytes(part) for part in sorted(temporary.iterdir())}
        check_pipeline_size(sum(sizes.values()), output)
    return {"bytes": sum(sizes.values()), "parts": sizes}


def write_portrait_parts(encoder: Path, adapter: Path, output: Path) -> dict[str, Any]:
    """Adds what lets videos drive the faces of a finished pipeline: expression encoder and adapter, or none of both.

    Raises:
        InputError: they are larger than `MAX_PORTRAIT_PARTS_BYTES` together, or there is no pipeline; nothing is
            written.
    """
    parts = {EXPRESSION_ENCODER_FOLDER: encoder, EXPRESSION_ADAPTER_FOLDER: adapter}
    sizes = {name: size_in_bytes(part) for name, part in parts.items()}
    if sum(sizes.values()) > MAX_PORTRAIT_PARTS_BYTES:
        raise InputError(
            f"{' and '.join(parts)} of '{output}' would have {sum(sizes.values()) / 1e6:.1f} MB; the limit is "
            f"{MAX_PORTRAIT_PARTS_BYTES / 1e6:.0f} MB: make the expression modules or the rank of the LoRA smaller"
        )
    if not output.is_dir():
        raise InputError(f"there is no pipeline at '{output}'; make it first: the step pack")
    for name, part in parts.items():
        with atomic_write(output / name) as temporary:
            shutil.copytree(part, temporary)
    return {"bytes": sum(sizes.values()), "parts": sizes}


def size_in_bytes(file_or_folder: Path) -> int:
    """Of a file, or of all files below a folder."""
    files = (
        [file_or_folder] if file_or_folder.is_file() else [path for path in file_or_folder.rglob("*") if path.is_file()]
    )
    return sum(path.stat().st_size for path in files)


def check_pipeline_size(size: int, output: Path) -> None:
    """Holds that a finished folder is no larger than the limit.

    Raises:
        InputError: it is.
    """
    if size > MAX_PIPELINE_BYTES:
        raise InputError(
            f"'{output}' would have {size / 1e6:.1f} MB; the limit is {MAX_PIPELINE_BYTES / 1e6:.0f} MB: "
            "make the transformer or an encoder smaller"
        )
