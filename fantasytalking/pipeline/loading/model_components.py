"""Loads the components of a pipeline: one that was saved whole, or a Wan base with an adapter. Loading is strict."""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler, SchedulerMixin, UniPCMultistepScheduler
from diffusers.utils import logging

from fantasytalking.checkpoints.adapter_formats import load_any_adapter
from fantasytalking.checkpoints.expression_adapter import load_expression_adapter
from fantasytalking.checkpoints.lora import fuse_lora, has_lora
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.hub import HUB_ID, resolve_local
from fantasytalking.common.text_files import read_json
from fantasytalking.encoders.audio_loading import audio_encoder_from_components, load_audio_encoder
from fantasytalking.encoders.loading import load_component, load_model
from fantasytalking.face_range import face_ranges_to_dict
from fantasytalking.models.experts import Expert
from fantasytalking.models.guarded_loading import check_no_stored_weights, check_safe_serialization
from fantasytalking.models.stored_linear import stored_weight_names
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.models.wan_loading import check_transformer_folder, load_from_wan
from fantasytalking.motion_normalizer import MotionNormalizer
from fantasytalking.pipeline.encoder_components import ExpressionEncoderFolder, FaceEncoderFile
from fantasytalking.pipeline.loading.component_files import load_image_encoder, load_text_encoder, load_vae
from fantasytalking.pipeline.loading.encoder_checks import check_audio_encoder, check_audio_encoder_config
from fantasytalking.pipeline.loading.options import MODEL_COMPONENTS, LoadingOptions
from fantasytalking.pipeline.loading.stored_model import StoredModel
from fantasytalking.pipeline.schedulers import SchedulerType, check_scheduler, check_scheduler_config, make_scheduler

ComponentCallback = Callable[[str], object]

diffusers_logger = logging.get_logger(DiffusionPipeline.__module__)
"""Where diffusers reports the components of a pipeline as they are loaded."""


def read_saved_model(
    source: str | Path,
    adapter: str | Path | None = None,
    expression_adapter: str | Path | None = None,
    options: LoadingOptions | None = None,
    adapter_2: str | Path | None = None,
) -> StoredModel:
    """Reads the descriptions of a pipeline that `save_pretrained` wrote, and downloads it if it is a hub id.

    Args:
        options: of the download; None: the defaults.

    Raises:
        InputError: the pipeline or an adapter is missing or malformed, or they do not fit together.
    """
    folder = _local_folder(source, options or LoadingOptions())
    model = StoredModel.read(folder, adapter, adapter_2=adapter_2, expression_adapter=expression_adapter)
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
    options: LoadingOptions,
    given: Mapping[str, Any],
    progress: ComponentCallback = lambda _: None,
) -> dict[str, Any]:
    """Loads a pipeline that `save_pretrained` wrote, with its adapters.

    Args:
        model: the saved pipeline; its adapter may extend it (a distilled model, for instance).
        given: components that are already loaded and settings that replace the stored ones, by name.
        progress: called with the name of each component once it is loaded.

    Returns:
        Arguments of the pipeline's constructor.

    Raises:
        InputError: a component is missing, damaged, incomplete or of another kind, or an adapter does not fit.
    """
    folder, config = model.base, model.pipeline_config
    assert config is not None, "reading the model has checked it"
    _check_given(model, options, given)
    stored = [name for name in MODEL_COMPONENTS if (folder / name).is_dir()]
    options.check_variants(folder, [name for name in stored if name not in given])
    if "audio_encoder" not in given:
        check_audio_encoder_config(model, None, None)
    parts = load_encoders(
        folder,
        folder,
        options,
        given,
        progress,
        processor_subfolder="audio_processor",
        has_image_encoder=model.has_image_encoder,
    )
    _check_loaded_audio_encoder(model, {**parts, **given}, None)
    for expert in model.experts:
        if expert.component not in given:
            parts[expert.component] = load_transformer(model, {}, options, expert)
            progress(expert.component)
    if "scheduler" not in given:
        parts["scheduler"] = _load_scheduler(folder)
    for name, part in parts.items():
        if part is not None:
            diffusers_logger.info(f"Loaded {name} as {type(part).__name__} from `{name}` subfolder of {folder}.")
    settings = {
        "trained_modules": ",".join(model.trained_modules),
        "audio_window": config["audio_window"],
        "window_seconds": config["window_seconds"],
        "text_length": config["text_length"],
        "boundary_ratio": model.boundary_ratio,
        "motion_normalizer": MotionNormalizer.load_if_present(folder),
        "face_ranges": face_ranges_to_dict(model.face_ranges),
    }
    return {**parts, **_stored_encoders(model), **settings, **given}


def load_pipeline_from_base(
    model: StoredModel,
    *,
    module_config: Mapping[str, Any],
    audio_encoder: str | Path | None = None,
    scheduler: SchedulerMixin | None = None,
    text_length: int = 512,
    torch_dtype: torch.dtype = torch.float32,
    keep_quantized: bool = False,
    given: Mapping[str, Any] = MappingProxyType({}),
    progress: ComponentCallback = lambda _: None,
) -> dict[str, Any]:
    """Loads a Wan image-to-video base with its adapters.

    Args:
        module_config: sizes of the paper's modules (`dataclasses.asdict(load_model_config(PRESET).portrait)`).
        audio_encoder: folder or hub id; None: audio_encoder in the base.
        scheduler: None: Euler with flow shift 5.
        text_length: tokens that prompts are padded to, as in training.
        torch_dtype: of transformer, text and image encoder; VAE and audio encoder stay in float32.
        keep_quantized: of the transformers, as in `load_from_wan`, and of the text encoder.
        given: encoders that are already loaded, or left out as None, by name.
        progress: as in `load_saved_pipeline`.

    Returns:
        Arguments of the pipeline's constructor.

    Raises:
        InputError: a component is missing, damaged, incomplete or of another kind.
    """
    audio_encoder = model.components.get("audio_encoder", audio_encoder)
    options, _ = LoadingOptions.split({"torch_dtype": torch_dtype}, [])
    check_audio_encoder_config(model, audio_encoder, module_config["audio_dim"])
    parts = load_encoders(
        model.base,
        audio_encoder,
        options,
        given,
        progress,
        has_image_encoder=model.has_image_encoder,
        files=model.components,
        keep_quantized=keep_quantized,
    )
    _check_loaded_audio_encoder(model, {**parts, **given}, module_config["audio_dim"])
    for expert in model.experts:
        parts[expert.component] = load_transformer(model, module_config, options, expert, keep_quantized)
        progress(expert.component)
    window_rule, window_seconds = model.audio_window
    folders = [folder for folder in (model.adapter, model.base) if folder is not None]
    normalizers = (MotionNormalizer.load_if_present(folder) for folder in folders)
    settings = {
        "scheduler": scheduler or make_scheduler(SchedulerType.euler),
        "trained_modules": ",".join(model.trained_modules),
        "audio_window": window_rule,
        "window_seconds": window_seconds,
        "text_length": text_length,
        "boundary_ratio": model.boundary_ratio,
        "motion_normalizer": next((normalizer for normalizer in normalizers if normalizer is not None), None),
        "face_ranges": face_ranges_to_dict(model.face_ranges),
    }
    return {**parts, **_stored_encoders(model), **settings, **given}


def load_transformer(
    model: StoredModel,
    module_config: Mapping[str, Any],
    options: LoadingOptions,
    expert: Expert = Expert.high,
    keep_quantized: bool = False,
) -> FantasyTalkingTransformer3DModel:
    """Loads one transformer, with its adapters.

    Args:
        expert: of a base with two; the only transformer of another base is `high`.
        module_config: as in `load_pipeline_from_base`; not used with a saved pipeline, which has the modules.
        options: of the loading; for a Wan base, the dtype alone.
        keep_quantized: as in `load_from_wan`; a saved pipeline has no such weights.

    Raises:
        InputError: it is missing, damaged or incomplete, or an adapter does not fit.
    """
    name, adapter = expert.component, model.adapter_of(expert)
    dtype = options.component_dtype(name)
    if model.extends_saved_pipeline:
        check_transformer_folder(model.base / name)
        transformer = load_model(
            FantasyTalkingTransformer3DModel,
            model.base,
            name,
            name,
            torch_dtype=dtype,
            **options.component_options(model.base, name),
        )
    else:
        source = model.components.get(name, model.base)
        transformer = load_from_wan(source, module_config, dtype, subfolder=name, keep_quantized=keep_quantized)
    if adapter is not None:
        load_any_adapter(transformer, adapter)
        if transformer.distillation is not None and has_lora(transformer) and not keep_quantized:
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
            stored = set(stored_weight_names(module))  # dequantized to other addresses in every call
            for name, tensor in (*module.named_parameters(), *module.named_buffers()):
                is_plain = type(tensor.data) is torch.Tensor and not tensor.is_meta  # not quantized, not offloaded
                if is_plain and name not in stored and tensor.data_ptr() % 64:
                    tensor.data = tensor.data.clone()


def check_can_be_saved(transformer: FantasyTalkingTransformer3DModel, folder: Path, safe_serialization: bool) -> None:
    """Checks that a pipeline can be saved to a folder so that it can be loaded again.

    Raises:
        InputError: weights stay as their file stores them, the transformer has an unfused LoRA, weights would be
            pickled, or the folder is a file.
    """
    check_no_stored_weights(transformer, "saved")
    if has_lora(transformer):
        raise InputError(
            "the transformer has a LoRA; first call fuse_lora() and unload_lora() of it",
            code=ErrorCode.unsupported,
            field="transformer",
        )
    check_safe_serialization(safe_serialization)
    if folder.is_file():
        raise InputError(
            f"'{folder}' is a file; give a folder to save the pipeline to",
            code=ErrorCode.output_exists,
            field="save_directory",
            value=str(folder),
        )


def load_encoders(
    source: str | Path,
    audio_encoder: str | Path | None,
    options: LoadingOptions,
    loaded: Mapping[str, Any],
    progress: ComponentCallback,
    processor_subfolder: str | None = None,
    has_image_encoder: bool = True,
    files: Mapping[str, Path] = MappingProxyType({}),
    keep_quantized: bool = False,
) -> dict[str, Any]:
    """Loads every component but transformer and scheduler, and returns them by the pipeline's names.

    Args:
        source: a diffusers folder or hub id.
        audio_encoder: folder, file or hub id; None: audio_encoder in `source`.
        options: dtypes and, for a saved pipeline, how its weights are stored and loaded.
        loaded: components that are already loaded; they are skipped.
        progress: called with the name of each component once it is loaded.
        processor_subfolder: folder of the feature extractor in `source`; None: the audio encoder's.
        has_image_encoder: whether the transformer attends to CLIP tokens; False: image_encoder and image_processor are
            None.
        files: single files in place of components of `source`, by component.
        keep_quantized: of the text encoder, as in `load_text_encoder`.

    Raises:
        InputError: a component is missing, damaged or incomplete.
    """

    def model_options(name: str) -> dict[str, Any]:
        return {"dtype": options.component_dtype(name), **options.component_options(Path(source), name)}

    parts: dict[str, Any] = {}
    if "vae" not in loaded:
        parts["vae"] = load_vae(source, files, **model_options("vae")).vae
        progress("VAE")
    if not {"text_encoder", "tokenizer"} <= loaded.keys():
        text = load_text_encoder(source, files, keep_quantized=keep_quantized, **model_options("text_encoder"))
        parts |= {"text_encoder": text.model, "tokenizer": text.tokenizer}
        progress("text encoder")
    if not has_image_encoder:
        parts |= {"image_encoder": None, "image_processor": None}
    elif not {"image_encoder", "image_processor"} <= loaded.keys():
        image = load_image_encoder(source, files, **model_options("image_encoder"))
        parts |= {"image_encoder": image.model, "image_processor": image.processor}
        progress("image encoder")
    if not {"audio_encoder", "audio_processor"} <= loaded.keys():
        is_separate = audio_encoder is not None and processor_subfolder is None
        folder, subfolder = (audio_encoder, "") if is_separate else (source, "audio_encoder")
        audio = load_audio_encoder(
            folder or source,
            subfolder=subfolder,
            processor_subfolder=processor_subfolder,
            **model_options("audio_encoder"),
        )
        parts |= {"audio_encoder": audio.model, "audio_processor": audio.feature_extractor}
        progress("audio encoder")
    return {name: part for name, part in parts.items() if name not in loaded}


def _check_given(model: StoredModel, options: LoadingOptions, given: Mapping[str, Any]) -> None:
    """Checks that arguments, adapters and quantization exclude each other nowhere."""
    if (model.adapter, model.expression_adapter) == (None, None):
        return
    names = [expert.component for expert in model.experts]
    for name in (name for name in names if name in given):
        raise InputError(
            f"both a loaded {name} and an adapter were given; leave one out",
            code=ErrorCode.conflict,
            field=name,
        )
    if any("quantization_config" in options.component_options(model.base, name) for name in names):
        raise InputError(
            "both an adapter and a quantization of the transformer were given, but an adapter changes weights that are "
            "not quantized; save the pipeline with the adapter first, and quantize that",
            code=ErrorCode.conflict,
            field="quantization_config",
        )


def _check_loaded_audio_encoder(model: StoredModel, components: Mapping[str, Any], audio_dim: int | None) -> None:
    """Checks the loaded weights too: models of one kind and width differ by their training."""
    if components["audio_encoder"] is None:
        return
    encoder = audio_encoder_from_components(components["audio_encoder"], components["audio_processor"])
    check_audio_encoder(model, encoder.spec, audio_dim)


def _stored_encoders(model: StoredModel) -> dict[str, Any]:
    """The encoders that are not torch modules, as components."""
    face, expression = model.face_encoder, model.expression_encoder
    return {
        "face_encoder": None if face is None else FaceEncoderFile(face),
        "expression_encoder": None if expression is None else ExpressionEncoderFolder(expression),
    }


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


def _local_folder(source: str | Path, options: LoadingOptions) -> Path:
    if options.revision is None:  # a local copy has no revisions
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
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(source), **options.download))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"pipeline '{source}' is not a local folder and could not be downloaded; give a folder",
            code=ErrorCode.missing_weights,
            field="pipeline",
            value=str(source),
        ) from error
