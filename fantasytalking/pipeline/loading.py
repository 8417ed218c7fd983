"""Loads the components of a pipeline: one that was saved whole, or a Wan base with an adapter. Loading is strict."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SchedulerMixin, UniPCMultistepScheduler

from fantasytalking.checkpoints.adapter import load_adapter
from fantasytalking.checkpoints.expression_adapter import load_expression_adapter
from fantasytalking.checkpoints.lora import fuse_lora, has_lora
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.files import atomic_write
from fantasytalking.common.hub import HUB_ID, resolve_local
from fantasytalking.common.text_files import read_json
from fantasytalking.encoders.expression import copy_expression_encoder
from fantasytalking.encoders.loading import load_component, load_model
from fantasytalking.encoders.wan import ImageEncoder, TextEncoder, VideoAutoencoder
from fantasytalking.encoders.wav2vec import AudioEncoder
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.models.wan_loading import check_transformer_folder, load_from_wan
from fantasytalking.motion_normalizer import MOTION_NORMALIZER_FILE, MotionNormalizer
from fantasytalking.pipeline.model_facts import EXPRESSION_ENCODER_FOLDER, FACE_ENCODER_FOLDER, StoredModel
from fantasytalking.pipeline.schedulers import SchedulerType, check_scheduler, check_scheduler_config, make_scheduler

ComponentCallback = Callable[[str], object]


@dataclass(frozen=True)
class PipelineParts:
    """Everything a pipeline is constructed from."""

    arguments: dict[str, Any]
    """Arguments of the constructor: components and configuration."""
    face_encoder_path: Path | None
    expression_encoder_path: Path | None
    motion_normalizer: MotionNormalizer | None


def read_saved_model(
    source: str | Path, adapter: str | Path | None = None, expression_adapter: str | Path | None = None
) -> StoredModel:
    """Reads the descriptions of a pipeline that `save_pretrained` wrote, and downloads it if it is a hub id.

    Raises:
        InputError: the pipeline or an adapter is missing or malformed, or they do not fit together.
    """
    model = StoredModel.read(_local_folder(source), adapter, expression_adapter=expression_adapter)
    if not model.extends_saved_pipeline:
        raise InputError(
            f"adapter '{model.adapter}' extends a Wan base, not a saved pipeline; give the base",
            code=ErrorCode.conflict,
            field="adapter",
            value=str(model.adapter),
        )
    return model


def load_saved_pipeline(
    model: StoredModel,
    *,
    torch_dtype: torch.dtype = torch.float32,
    progress: ComponentCallback = lambda _: None,
    **components: Any,
) -> PipelineParts:
    """Loads a pipeline that `save_pretrained` wrote, with its adapters.

    Args:
        model: the saved pipeline; its adapter may extend it (a distilled model, for instance).
        torch_dtype: of transformer, text and image encoder; VAE and wav2vec2 stay in float32.
        progress: called with the name of each component once it is loaded.
        components: components that are already loaded (quantized, for instance), by name.

    Raises:
        InputError: a component is missing, damaged, incomplete or of another kind, or an adapter does not fit.
    """
    folder, config = model.base, model.pipeline_config
    assert config is not None, "reading the model has checked it"
    if "transformer" in components and (model.adapter, model.expression_adapter) != (None, None):
        raise InputError(
            "both a loaded transformer and an adapter were given; leave one out",
            code=ErrorCode.conflict,
            field="transformer",
        )
    parts = load_encoders(folder, folder, torch_dtype, components, progress, processor_subfolder="audio_processor")
    if "transformer" not in components:
        parts["transformer"] = load_transformer(model, {}, torch_dtype)
        progress("transformer")
    if "scheduler" not in components:
        parts["scheduler"] = _load_scheduler(folder)
    settings = {
        "trained_modules": ",".join(model.trained_modules),
        "audio_window": config["audio_window"],
        "window_seconds": config["window_seconds"],
        "text_length": config["text_length"],
    }
    return PipelineParts(
        {**parts, **components, **settings},
        model.face_encoder,
        model.expression_encoder,
        MotionNormalizer.load_if_present(folder),
    )


def load_pipeline_from_base(
    model: StoredModel,
    *,
    module_config: Mapping[str, Any],
    audio_encoder: str | Path | None = None,
    scheduler: SchedulerMixin | None = None,
    text_length: int = 512,
    torch_dtype: torch.dtype = torch.float32,
    progress: ComponentCallback = lambda _: None,
) -> PipelineParts:
    """Loads a Wan image-to-video base with its adapters.

    Args:
        module_config: sizes of the paper's modules (`dataclasses.asdict(load_model_config(PRESET).portrait)`).
        audio_encoder: wav2vec2 folder or hub id; None: audio_encoder in the base.
        scheduler: None: Euler with flow shift 5.
        text_length: tokens that prompts are padded to, as in training.
        torch_dtype, progress: as in `load_saved_pipeline`.

    Raises:
        InputError: a component is missing, damaged, incomplete or of another kind.
    """
    parts = load_encoders(model.base, audio_encoder, torch_dtype, {}, progress)
    parts["transformer"] = load_transformer(model, module_config, torch_dtype)
    progress("transformer")
    window_rule, window_seconds = model.audio_window
    settings = {
        "scheduler": scheduler or make_scheduler(SchedulerType.euler),
        "trained_modules": ",".join(model.trained_modules),
        "audio_window": window_rule,
        "window_seconds": window_seconds,
        "text_length": text_length,
    }
    folders = [folder for folder in (model.adapter, model.base) if folder is not None]
    normalizers = (MotionNormalizer.load_if_present(folder) for folder in folders)
    return PipelineParts(
        {**parts, **settings},
        model.face_encoder,
        model.expression_encoder,
        next((normalizer for normalizer in normalizers if normalizer is not None), None),
    )


def load_transformer(
    model: StoredModel, module_config: Mapping[str, Any], dtype: torch.dtype
) -> FantasyTalkingTransformer3DModel:
    """Loads the transformer alone, with its adapters.

    Args:
        module_config: as in `load_pipeline_from_base`; not used with a saved pipeline, which has the modules.

    Raises:
        InputError: it is missing, damaged or incomplete, or an adapter does not fit.
    """
    if model.extends_saved_pipeline:
        check_transformer_folder(model.base / "transformer")
        transformer = load_model(
            FantasyTalkingTransformer3DModel, model.base, "transformer", "transformer", torch_dtype=dtype
        )
    else:
        transformer = load_from_wan(model.base, module_config, dtype)
    if model.adapter is not None:
        load_adapter(transformer, model.adapter)
        if transformer.distillation is not None and has_lora(transformer):
            fuse_lora(transformer)  # a distilled model no longer needs its teacher
        transformer.requires_grad_(False)
    if model.expression_adapter is not None:
        load_expression_adapter(transformer, model.expression_adapter)
        transformer.requires_grad_(False).eval()
    return transformer


def align_weights(components: Mapping[str, Any]) -> None:
    """Moves weights to addresses that are multiples of 64.

    Weights mapped from a file lie at the file's offsets, and on a CPU products of unaligned weights round differently
    in the last bit: the same weights from another file would give another video.
    """
    for module in components.values():
        if isinstance(module, torch.nn.Module):
            for tensor in (*module.parameters(), *module.buffers()):
                if tensor.data_ptr() % 64:
                    tensor.data = tensor.data.clone()


def save_encoder_files(
    folder: Path, face_encoder: Path | None, expression_encoder: Path | None, normalizer: MotionNormalizer | None
) -> None:
    """Writes what a saved pipeline contains besides its torch modules."""
    if face_encoder is not None:
        with atomic_write(folder / FACE_ENCODER_FOLDER / face_encoder.name) as temporary:
            shutil.copyfile(face_encoder, temporary)
    if expression_encoder is not None:
        copy_expression_encoder(expression_encoder, folder / EXPRESSION_ENCODER_FOLDER)
    if normalizer is not None:
        normalizer.save(folder / MOTION_NORMALIZER_FILE)


def load_encoders(
    source: str | Path,
    audio_encoder: str | Path | None,
    dtype: torch.dtype,
    loaded: Mapping[str, Any],
    progress: ComponentCallback,
    processor_subfolder: str | None = None,
) -> dict[str, Any]:
    """Loads every component but transformer and scheduler, and returns them by the pipeline's names.

    Args:
        source: a diffusers folder or hub id.
        audio_encoder: wav2vec2 folder or hub id; None: audio_encoder in `source`.
        dtype: of text and image encoder.
        loaded: components that are already loaded; they are skipped.
        progress: called with the name of each component once it is loaded.
        processor_subfolder: folder of the feature extractor in `source`; None: the audio encoder's.

    Raises:
        InputError: a component is missing, damaged or incomplete.
    """
    parts: dict[str, Any] = {}
    if "vae" not in loaded:
        parts["vae"] = VideoAutoencoder.from_pretrained(source).vae
        progress("VAE")
    if not {"text_encoder", "tokenizer"} <= loaded.keys():
        text = TextEncoder.from_pretrained(source, dtype=dtype)
        parts |= {"text_encoder": text.model, "tokenizer": text.tokenizer}
        progress("text encoder")
    if not {"image_encoder", "image_processor"} <= loaded.keys():
        image = ImageEncoder.from_pretrained(source, dtype=dtype)
        parts |= {"image_encoder": image.model, "image_processor": image.processor}
        progress("image encoder")
    if not {"audio_encoder", "audio_processor"} <= loaded.keys():
        is_separate = audio_encoder is not None and processor_subfolder is None
        folder, subfolder = (audio_encoder, "") if is_separate else (source, "audio_encoder")
        audio = AudioEncoder.from_pretrained(
            folder or source, subfolder=subfolder, processor_subfolder=processor_subfolder
        )
        parts |= {"audio_encoder": audio.model, "audio_processor": audio.feature_extractor}
        progress("audio encoder")
    return {name: part for name, part in parts.items() if name not in loaded}


def _load_scheduler(folder: Path) -> SchedulerMixin:
    config = read_json(folder / "scheduler" / "scheduler_config.json")
    for kind in (FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler):
        if config.get("_class_name") == kind.__name__:
            check_scheduler_config(config, str(folder / "scheduler"))
            scheduler = load_component(kind.from_pretrained, folder, "scheduler", "scheduler")
            check_scheduler(scheduler, str(folder / "scheduler"))
            return scheduler
    raise InputError(
        f"the scheduler in '{folder}' is {config.get('_class_name')!r}; FlowMatchEulerDiscreteScheduler or "
        "UniPCMultistepScheduler is needed",
        code=ErrorCode.invalid_choice,
        field="scheduler",
        value=config.get("_class_name"),
    )


def _local_folder(source: str | Path) -> Path:
    source = resolve_local(source)
    if Path(source).is_dir():
        return Path(source)
    if not HUB_ID.fullmatch(str(source)):
        raise InputError(
            f"pipeline '{source}' does not exist; give a folder that save_pretrained wrote",
            code=ErrorCode.missing_file,
            field="pipeline",
            value=str(source),
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(source)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"pipeline '{source}' is not a local folder and could not be downloaded; give a folder",
            code=ErrorCode.missing_weights,
            field="pipeline",
            value=str(source),
        ) from error
