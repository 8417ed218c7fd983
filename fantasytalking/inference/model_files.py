"""Where the weights of a configuration are, and how to get those that are not there."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from fantasytalking.checkpoints.adapter import read_adapter_config
from fantasytalking.common.errors import InputError
from fantasytalking.common.files import existing_file
from fantasytalking.common.hub import CHECKPOINTS_FOLDER, HUB_ID, local_folder, resolve_local
from fantasytalking.common.tensor_io import read_json
from fantasytalking.models.guidance_embedder import DistillationSpec
from fantasytalking.models.presets import load_model_config
from fantasytalking.pipeline.config import InferConfig
from fantasytalking.pipeline.distillation_limits import extends_saved_pipeline
from fantasytalking.pipeline.loading import find_expression_encoder, find_face_encoder

EXPRESSION_ADAPTER_FOLDER = "expression_adapter"
"""Folder in a base of an adapter that goes on it."""


class DownloadHint(NamedTuple):
    """How weights are obtained."""

    command: str
    size: str
    license: str


_SIZES_BY_PRECISION = "in half precision, {} GB in single"
# Sizes follow from the numbers of parameters.
DOWNLOAD_HINTS = {
    "checkpoints/nano": DownloadHint(
        "it is part of the repository, not of the wheel; copy checkpoints/nano of a clone here, give base=FOLDER, or "
        "build it in some hours: fantasytalking build-nano",
        "48 MB at most",
        "Apache-2.0",
    ),
    "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers": DownloadHint(
        "hf download Wan-AI/Wan2.1-I2V-14B-720P-Diffusers --local-dir checkpoints/Wan2.1-I2V-14B-720P-Diffusers",
        f"about 46 GB {_SIZES_BY_PRECISION.format(91)}",
        "Apache-2.0",
    ),
    "weizhou03/Wan2.1-Fun-1.3B-InP-Diffusers": DownloadHint(
        "hf download weizhou03/Wan2.1-Fun-1.3B-InP-Diffusers --local-dir checkpoints/Wan2.1-Fun-1.3B-InP-Diffusers",
        f"about 16 GB {_SIZES_BY_PRECISION.format(32)}",
        "Apache-2.0",
    ),
    "facebook/wav2vec2-base-960h": DownloadHint(
        "hf download facebook/wav2vec2-base-960h --include '*.json' --include model.safetensors "
        "--local-dir checkpoints/wav2vec2-base-960h",
        "about 0.4 GB",
        "Apache-2.0",
    ),
    "checkpoints/fantasytalking_audio": DownloadHint(
        "hf download acvlab/FantasyTalking fantasytalking_model.ckpt --local-dir checkpoints && "
        "fantasytalking convert checkpoints/fantasytalking_model.ckpt checkpoints/fantasytalking_audio",
        f"about 1.7 GB {_SIZES_BY_PRECISION.format('3.4')}",
        "Apache-2.0",
    ),
    "outputs/wan1.3b/stage2/adapter": DownloadHint(
        "accelerate launch -m fantasytalking train --config configs/wan1.3b/stage2.yaml (after stage 1)",
        "about 0.9 GB in half precision, 1.8 GB in single",
        "yours",
    ),
    "checkpoints/fantasyportrait_model.ckpt": DownloadHint(
        "hf download acvlab/FantasyPortrait fantasyportrait_model.ckpt --local-dir checkpoints",
        f"about 2 GB {_SIZES_BY_PRECISION.format(4)}",
        "its page tells the licence",
    ),
    "checkpoints/arcface/w600k_r50.onnx": DownloadHint(
        "put w600k_r50.onnx of buffalo_l (github.com/deepinsight/insightface, model zoo) into checkpoints/arcface",
        "0.2 GB",
        "non-commercial research only",
    ),
}


@dataclass(frozen=True)
class ModelFiles:
    """Local places of everything a configuration needs."""

    base: Path
    adapter: Path | None
    """None: `base` is a saved pipeline."""
    audio_encoder: Path | None
    face_encoder: Path | None
    lora: Path | None = None
    """The few-step LoRA of the savings."""
    expression_adapter: Path | None = None
    """What lets videos drive the faces; None: the adapter or the base brings it, or nothing does."""
    expression_encoder: Path | None = None
    """What reads the drivers."""

    @property
    def has_face_encoder(self) -> bool:
        """Whether there is an ArcFace network, by itself or in the base."""
        return self.face_encoder is not None or bool(find_face_encoder(self.base))

    def trained_modules(self) -> list[str]:
        """Of audio, face, motion and expression, those that were trained, as adapters or the saved pipeline say.

        Raises:
            InputError: the adapter needs a saved pipeline, and the base is none.
        """
        brought = [] if self.expression_adapter is None else ["expression"]
        return [*self._trained_without_expression_adapter(), *brought]

    def _trained_without_expression_adapter(self) -> list[str]:
        if self.adapter is not None and not extends_saved_pipeline(self.adapter):
            return read_adapter_config(self.adapter).modules
        if not is_saved_pipeline(self.base):
            raise InputError(
                f"adapter '{self.adapter}' goes on what it was trained on, and the base '{self.base}' is no saved "
                "pipeline; give the one that it was made for: base=FOLDER"
            )
        saved = str(read_json(self.base / "model_index.json").get("trained_modules", "")).split(",")
        brought = [] if self.adapter is None else read_adapter_config(self.adapter).modules
        return saved + [name for name in brought if name not in ("guidance", *saved)]

    def distillation(self) -> DistillationSpec | None:
        """What a distilled adapter, or else a saved pipeline's transformer, follows; None = it is not distilled."""
        if self.adapter is not None:
            place, values = self.adapter, read_adapter_config(self.adapter).distillation
        else:
            place = self.base / "transformer" / "config.json"
            values = read_json(place).get("distillation") if place.is_file() else None  # its absence is told on loading
        return None if values is None else DistillationSpec.from_dict(values, str(place))

    @property
    def paths(self) -> dict[str, Path]:
        """Those that there are, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def paths_used(self, has_driving_video: bool) -> dict[str, Path]:
        """Those that take part in a video whose faces are driven, or in one whose are not."""
        idle = set() if has_driving_video else {"expression_encoder"}
        if not has_driving_video and not self.expression_adapter_affects_speech:
            idle.add("expression_adapter")
        return {name: place for name, place in self.paths.items() if name not in idle}

    @property
    def expression_adapter_affects_speech(self) -> bool:
        """Whether a video of sounds alone is another with the expression's adapter: where it brings more than that
        condition, such as to tell several speakers apart."""
        adapter = self.expression_adapter
        return adapter is not None and adapter.is_dir() and read_adapter_config(adapter).modules != ["expression"]

    @property
    def expression_adapter_affects_base(self) -> bool:
        """Whether a pipeline that holds the expression's adapter makes another video of sounds alone: where it brings
        a LoRA, or weights of the base, which are there for whatever is made."""
        adapter = self.expression_adapter
        if adapter is None or not adapter.is_dir():
            return False
        config = read_adapter_config(adapter)
        return config.lora is not None or config.base_tensors > 0


def find_model_files(
    config: InferConfig, *, has_driving_video: bool = False, is_multi_speaker: bool = False
) -> ModelFiles:
    """The weights that `config` names; nothing is ever downloaded unasked.

    A hub id is looked for in checkpoints/NAME and then in the local cache of the hub.

    Args:
        has_driving_video: also what videos need to drive the faces, as far as it is there.
        is_multi_speaker: there are several people; what drives faces may also bring what tells them apart by their
            sounds. Without either nothing of it is looked for.

    Raises:
        InputError: some are not there; one line with the command, size and licence of each.
    """
    base_name = config.base or load_model_config(config.model).base
    names = {
        "base": base_name,
        "adapter": config.adapter,
        "audio_encoder": config.audio_encoder,
        "face_encoder": config.face_encoder,
        **({"expression_adapter": config.expression_adapter} if has_driving_video or is_multi_speaker else {}),
        **({"expression_encoder": config.expression_encoder} if has_driving_video else {}),
    }
    found = resolve_paths(names, base_source=base_name)
    base = found["base"]
    assert base is not None
    lora = (
        None
        if config.optimizations.few_step_lora is None
        else existing_file(config.optimizations.few_step_lora, "optimizations.few_step_lora")
    )
    if config.adapter is None and not is_saved_pipeline(base):
        raise InputError(
            f"adapter is not given and the base '{base}' is no saved pipeline; give an adapter folder: adapter=FOLDER"
        )
    adapter = found["adapter"]
    if adapter is not None and is_saved_pipeline(base) and read_adapter_config(adapter).modules == ["expression"]:
        # By itself it goes on a saved pipeline, and counts where something drives.
        found["expression_adapter"], adapter = found.get("expression_adapter") or adapter, None
    weights = ModelFiles(base, adapter, found["audio_encoder"], found["face_encoder"], lora)
    if not has_driving_video and not is_multi_speaker:
        return weights
    weights = _with_expression_files(weights, found)
    if has_driving_video:
        return weights
    adapter = weights.expression_adapter if weights.expression_adapter_affects_speech else None
    return replace(weights, expression_adapter=adapter, expression_encoder=None)


def _with_expression_files(files: ModelFiles, paths: Mapping[str, Path | None]) -> ModelFiles:
    """With adapter and encoder of the expression: those named, or those that stand where such things stand."""
    adapter, encoder = paths["expression_adapter"], paths.get("expression_encoder")
    inside = files.base / EXPRESSION_ADAPTER_FOLDER
    if adapter is None and "expression" not in files.trained_modules() and inside.is_dir():
        adapter = inside
    encoder = encoder or find_expression_encoder(adapter, files.adapter, files.base)
    return replace(files, expression_adapter=adapter, expression_encoder=encoder)


def resolve_paths(names: Mapping[str, str | None], base_source: str) -> dict[str, Path | None]:
    """The local place of each folder, file or hub id; None for those that are None.

    Args:
        base_source: what is missing of the parts that stand in this folder is told as the folder.

    Raises:
        InputError: some are not there; one line with the command, size and licence of each.
    """
    found = {name: None if place is None else _resolve_path(place) for name, place in names.items()}
    missing = [place for name, place in names.items() if place is not None and found[name] is None]
    # The parts of the miniature stand in one folder, which one command makes.
    missing = [place for place in missing if not (place != base_source and place.startswith(f"{base_source}/"))]
    if missing:
        raise InputError(f"weights are missing: {'; '.join(_download_hint(place) for place in missing)}")
    return found


def is_saved_pipeline(folder: Path) -> bool:
    """Whether `save_pretrained` of our pipeline wrote the folder."""
    index = folder / "model_index.json"
    return index.is_file() and read_json(index).get("_class_name") == "FantasyTalkingPipeline"


def _resolve_path(path_or_id: str) -> Path | None:
    path = Path(resolve_local(path_or_id))
    if path.exists():
        return path
    if not HUB_ID.fullmatch(path_or_id) or path_or_id.startswith(f"{CHECKPOINTS_FOLDER}/"):
        return None
    return _cached_snapshot(path_or_id)


def _cached_snapshot(hub_id: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _download_hint(path_or_id: str) -> str:
    source = DOWNLOAD_HINTS.get(path_or_id)
    if source is not None:
        return f"'{path_or_id}': {source.command} ({source.size}, {source.license})"
    if HUB_ID.fullmatch(path_or_id) and not path_or_id.startswith((f"{CHECKPOINTS_FOLDER}/", "outputs/")):
        return (
            f"'{path_or_id}': hf download {path_or_id} --local-dir {local_folder(path_or_id)} "
            "(its page states size and license)"
        )
    return f"'{path_or_id}' does not exist; check the path"
