"""Pipelines from folders: one that was saved whole, or a Wan base with an adapter; every part is loaded strictly."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SchedulerMixin, UniPCMultistepScheduler

from fantasytalking.checkpoints.adapter import load_adapter, read_adapter_config
from fantasytalking.checkpoints.expression_adapter import load_expression_adapter
from fantasytalking.common.errors import InputError
from fantasytalking.common.files import existing_file
from fantasytalking.common.hub import HUB_ID, resolve_local
from fantasytalking.common.tensor_io import read_json
from fantasytalking.encoders.loading import load_component, load_model
from fantasytalking.encoders.wan import ImageEncoder, TextEncoder, VideoAutoencoder
from fantasytalking.encoders.wav2vec import AudioEncoder
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.models.wan_loading import load_from_wan
from fantasytalking.motion_normalizer import MotionNormalizer
from fantasytalking.pipeline.distillation_limits import (
    check_adapter_base,
    extends_saved_pipeline,
    fuse_distillation_lora,
)
from fantasytalking.pipeline.schedulers import SchedulerType, make_scheduler

if TYPE_CHECKING:
    from fantasytalking.pipeline.pipeline import FantasyTalkingPipeline

FACE_ENCODER_FOLDER = "face_encoder"
"""Folder of the ArcFace .onnx in a components folder and in a saved pipeline."""
EXPRESSION_ENCODER_FOLDER = "expression_encoder"
"""Folder of the encoder that reads drivers, in a saved pipeline or beside an adapter's weights."""

PIPELINE_CONFIG_TYPES = {"trained_modules": str, "audio_window": str, "window_seconds": float, "text_length": int}
"""What a saved pipeline says of itself in model_index.json beside its parts."""

ComponentCallback = Callable[[str], object]


def load_saved_pipeline(
    pipeline_class: "type[FantasyTalkingPipeline]",
    source: str | Path,
    *,
    adapter: str | Path | None = None,
    expression_adapter: str | Path | None = None,
    torch_dtype: torch.dtype = torch.float32,
    progress: ComponentCallback = lambda _: None,
    **components: Any,
) -> "FantasyTalkingPipeline":
    """A pipeline that `save_pretrained` wrote.

    Args:
        source: its folder, or a hub id of one.
        adapter: what distillation added to it; None = it is loaded as it was saved.
        expression_adapter: lets videos drive the faces, as of `load_transformer`.
        torch_dtype: of transformer, text and image encoder; VAE and wav2vec2 stay in float32, as everywhere here.
        progress: told each part's name when it is loaded.
        components: parts that are loaded already (quantised, for instance), under their names.

    Raises:
        InputError: a part is missing, damaged, incomplete or of another kind; or the adapter does not fit.
    """
    folder = _local_folder(source)
    index = read_json(folder / "model_index.json")
    if index.get("_class_name") != pipeline_class.__name__:
        raise InputError(
            f"'{folder}' holds a {index.get('_class_name') or 'folder of unknown kind'}, not a "
            f"{pipeline_class.__name__}; give a Wan base together with an adapter"
        )
    wrong = [name for name, kind in PIPELINE_CONFIG_TYPES.items() if type(index.get(name)) is not kind]
    if wrong:
        raise InputError(f"'{folder}/model_index.json': {wrong[0]} is {index.get(wrong[0])!r}; save the pipeline again")
    if adapter is not None:
        check_adapter_base(Path(adapter), index)
    if "transformer" in components and (adapter, expression_adapter) != (None, None):
        raise InputError("both a transformer that is ready and an adapter were given; leave one out")
    parts = load_encoders(folder, folder, torch_dtype, components, progress, processor_subfolder="audio_processor")
    if "transformer" not in components:
        parts["transformer"] = load_transformer(folder, adapter, {}, torch_dtype, expression_adapter)
        progress("transformer")
    if "scheduler" not in components:
        parts["scheduler"] = _load_scheduler(folder)
    settings = {name: index[name] for name in PIPELINE_CONFIG_TYPES}
    brought = [] if adapter is None else read_adapter_config(adapter).modules
    settings["trained_modules"] = _join_modules([*index["trained_modules"].split(","), *brought], expression_adapter)
    pipeline = pipeline_class(**parts, **components, **settings)
    _align_weights(pipeline)
    pipeline.face_encoder_path = find_face_encoder(folder)
    pipeline.expression_encoder_path = find_expression_encoder(expression_adapter, folder)
    pipeline.motion_normalizer = MotionNormalizer.load_if_present(folder)
    return pipeline


def load_pipeline_from_base(
    pipeline_class: "type[FantasyTalkingPipeline]",
    base: str | Path,
    adapter: str | Path,
    *,
    module_config: Mapping[str, Any],
    expression_adapter: str | Path | None = None,
    audio_encoder: str | Path | None = None,
    face_encoder: str | Path | None = None,
    scheduler: SchedulerMixin | None = None,
    text_length: int = 512,
    torch_dtype: torch.dtype = torch.float32,
    progress: ComponentCallback = lambda _: None,
) -> "FantasyTalkingPipeline":
    """A Wan image-to-video base (diffusers folder or hub id) with an adapter of ours on it.

    Args:
        module_config: sizes of the paper's modules (`dataclasses.asdict(load_model_config(PRESET).module_config)`).
        expression_adapter: lets videos drive the faces, as of `load_transformer`.
        audio_encoder: wav2vec2 folder or hub id; None = audio_encoder in `base`.
        face_encoder: ArcFace .onnx; None = the one in face_encoder of `base`, where there is one.
        scheduler: None = Euler, shift 5.
        text_length, torch_dtype, progress: as in the pipeline and in `load_saved_pipeline`.

    Raises:
        InputError: a part is missing, damaged, incomplete or of another kind.
    """
    base, adapter = Path(base), Path(adapter)
    parts = load_encoders(base, audio_encoder, torch_dtype, {}, progress)
    transformer = load_transformer(base, adapter, module_config, torch_dtype, expression_adapter)
    described = read_adapter_config(adapter)
    progress("transformer")
    pipeline = pipeline_class(
        transformer=transformer,
        scheduler=scheduler or make_scheduler(SchedulerType.euler),
        trained_modules=_join_modules(described.modules, expression_adapter),
        audio_window=described.audio_window,
        window_seconds=described.window_seconds,
        text_length=text_length,
        **parts,
    )
    _align_weights(pipeline)
    pipeline.face_encoder_path = (
        find_face_encoder(base) if face_encoder is None else existing_file(face_encoder, "face encoder")
    )
    pipeline.expression_encoder_path = find_expression_encoder(expression_adapter, adapter, base)
    pipeline.motion_normalizer = MotionNormalizer.load_if_present(adapter) or MotionNormalizer.load_if_present(base)
    return pipeline


def load_transformer(
    base: str | Path,
    adapter: str | Path | None,
    module_config: Mapping[str, Any],
    dtype: torch.dtype,
    expression_adapter: str | Path | None = None,
) -> FantasyTalkingTransformer3DModel:
    """The transformer alone, with its adapters, where there are any.

    Args:
        base: a saved pipeline, where there is no adapter or one that goes on a saved pipeline; else a Wan base.
        module_config: as of `load_pipeline_from_base`; not read with a saved pipeline, which has the modules.
        expression_adapter: a folder of ours or FantasyPortrait's released checkpoint: see
            `fantasytalking.checkpoints.expression_adapter.load_expression_adapter`.

    Raises:
        InputError: it is missing, damaged or incomplete, or the adapter does not fit.
    """
    if adapter is None or extends_saved_pipeline(Path(adapter)):
        transformer = load_model(
            FantasyTalkingTransformer3DModel, base, "transformer", "transformer", torch_dtype=dtype
        )
    else:
        transformer = load_from_wan(base, module_config, dtype)
    if adapter is not None:
        load_adapter(transformer, adapter)
        fuse_distillation_lora(transformer)
    if expression_adapter is not None:
        load_expression_adapter(transformer, expression_adapter)
        transformer.requires_grad_(False).eval()
    return transformer


def find_face_encoder(folder: Path) -> Path | None:
    """The ArcFace network in a components folder or saved pipeline, where there is one.

    Raises:
        InputError: there are several.
    """
    found = sorted((folder / FACE_ENCODER_FOLDER).glob("*.onnx"))
    if len(found) > 1:
        raise InputError(f"'{folder / FACE_ENCODER_FOLDER}' holds {len(found)} .onnx files; leave one")
    return found[0] if found else None


def find_expression_encoder(*candidates: str | Path | None) -> Path | None:
    """The encoder that reads drivers: the first that stands in one of the folders; None where none does."""
    folders = (Path(place) / EXPRESSION_ENCODER_FOLDER for place in candidates if place is not None)
    return next((folder for folder in folders if folder.is_dir()), None)


def _join_modules(modules: Sequence[str], expression_adapter: str | Path | None) -> str:
    """The trained modules as a pipeline says them of itself; distillation is told by the transformer."""
    brought = [] if expression_adapter is None else ["expression"]
    return ",".join(dict.fromkeys([*(name for name in modules if name != "guidance"), *brought]))


def _align_weights(pipeline: "FantasyTalkingPipeline") -> None:
    """Moves weights to addresses that are multiples of 64.

    Those mapped from a file stand wherever the file has them, and on a CPU products of odd addresses round otherwise in
    the last bit: the same weights from another file would make another video.
    """
    for module in pipeline.components.values():
        if isinstance(module, torch.nn.Module):
            for tensor in (*module.parameters(), *module.buffers()):
                if tensor.data_ptr() % 64:
                    tensor.data = tensor.data.clone()


def load_encoders(
    source: str | Path,
    audio_encoder: str | Path | None,
    dtype: torch.dtype,
    loaded: Mapping[str, Any],
    progress: ComponentCallback,
    processor_subfolder: str | None = None,
) -> dict[str, Any]:
    """Every part but transformer and scheduler, those of `loaded` left out, under the pipeline's names.

    Args:
        source: a diffusers folder or hub id.
        audio_encoder: wav2vec2 folder or hub id; None = audio_encoder in `source`.
        dtype: of text and image encoder.
        loaded: parts that are loaded already.
        progress: told each part's name when it is loaded.
        processor_subfolder: folder of the feature extractor in `source`, where it is not the audio encoder's.

    Raises:
        InputError: a part is missing, damaged or incomplete.
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
        place, subfolder = (
            (audio_encoder, "")
            if audio_encoder is not None and processor_subfolder is None
            else (source, "audio_encoder")
        )
        sound = AudioEncoder.from_pretrained(place, subfolder=subfolder, processor_subfolder=processor_subfolder)
        parts |= {"audio_encoder": sound.model, "audio_processor": sound.feature_extractor}
        progress("audio encoder")
    return {name: part for name, part in parts.items() if name not in loaded}


def _load_scheduler(folder: Path) -> SchedulerMixin:
    config = read_json(folder / "scheduler" / "scheduler_config.json")
    for kind in (FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler):
        if config.get("_class_name") == kind.__name__:
            return load_component(kind.from_pretrained, folder, "scheduler", "scheduler")
    raise InputError(
        f"the scheduler in '{folder}' is {config.get('_class_name')!r}; FlowMatchEulerDiscreteScheduler or "
        "UniPCMultistepScheduler is needed"
    )


def _local_folder(source: str | Path) -> Path:
    source = resolve_local(source)
    if Path(source).is_dir():
        return Path(source)
    if not HUB_ID.fullmatch(str(source)):
        raise InputError(f"pipeline: the folder '{source}' does not exist; give one that save_pretrained wrote")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(source)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"pipeline '{source}' is no local folder and was not had from the hub; give a folder"
        ) from error
