"""Where the weights of a configuration are, and how to get those that are not there."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from fantasytalking.checkpoints.adapter import read_config
from fantasytalking.common.errors import InputError
from fantasytalking.common.files import existing_file
from fantasytalking.common.hub import CHECKPOINTS, HUB_ID, at_hand, local_folder
from fantasytalking.common.tensor_io import read_json
from fantasytalking.models.guidance_embedder import Distillation
from fantasytalking.models.presets import load_model_config
from fantasytalking.pipeline.config import InferConfig
from fantasytalking.pipeline.distillation_limits import goes_on_saved
from fantasytalking.pipeline.loading import find_expression_encoder, find_onnx

EXPRESSION_ADAPTER = "expression_adapter"
"""Folder in a base of an adapter that goes on it."""


class Source(NamedTuple):
    """How weights are obtained."""

    command: str
    size: str
    licence: str


_HALF_OR_FULL = "in half precision, {} GB in single"
# Sizes follow from the numbers of parameters.
SOURCES = {
    "checkpoints/nano": Source("python scripts/build_nano.py", "48 MB at most", "Apache-2.0"),
    "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers": Source(
        "hf download Wan-AI/Wan2.1-I2V-14B-720P-Diffusers --local-dir checkpoints/Wan2.1-I2V-14B-720P-Diffusers",
        f"about 46 GB {_HALF_OR_FULL.format(91)}",
        "Apache-2.0",
    ),
    "weizhou03/Wan2.1-Fun-1.3B-InP-Diffusers": Source(
        "hf download weizhou03/Wan2.1-Fun-1.3B-InP-Diffusers --local-dir checkpoints/Wan2.1-Fun-1.3B-InP-Diffusers",
        f"about 16 GB {_HALF_OR_FULL.format(32)}",
        "Apache-2.0",
    ),
    "facebook/wav2vec2-base-960h": Source(
        "hf download facebook/wav2vec2-base-960h --include '*.json' --include model.safetensors "
        "--local-dir checkpoints/wav2vec2-base-960h",
        "about 0.4 GB",
        "Apache-2.0",
    ),
    "checkpoints/fantasytalking_audio": Source(
        "hf download acvlab/FantasyTalking fantasytalking_model.ckpt --local-dir checkpoints && "
        "python scripts/convert_official.py checkpoints/fantasytalking_model.ckpt checkpoints/fantasytalking_audio",
        f"about 1.7 GB {_HALF_OR_FULL.format('3.4')}",
        "Apache-2.0",
    ),
    "outputs/wan1.3b/stage2/adapter": Source(
        "accelerate launch scripts/train_stage2.py --config configs/wan1.3b/stage2.yaml (after stage 1)",
        "about 0.9 GB in half precision, 1.8 GB in single",
        "yours",
    ),
    "checkpoints/fantasyportrait_model.ckpt": Source(
        "hf download acvlab/FantasyPortrait fantasyportrait_model.ckpt --local-dir checkpoints",
        f"about 2 GB {_HALF_OR_FULL.format(4)}",
        "its page tells the licence",
    ),
    "checkpoints/arcface/w600k_r50.onnx": Source(
        "put w600k_r50.onnx of buffalo_l (github.com/deepinsight/insightface, model zoo) into checkpoints/arcface",
        "0.2 GB",
        "non-commercial research only",
    ),
}


@dataclass(frozen=True)
class Weights:
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
        return self.face_encoder is not None or bool(find_onnx(self.base))

    def trained_modules(self) -> list[str]:
        """Of audio, face, motion and expression, those that were trained, as adapters or the saved pipeline say.

        Raises:
            InputError: the adapter needs a saved pipeline, and the base is none.
        """
        brought = [] if self.expression_adapter is None else ["expression"]
        return [*self._trained_without_expression_adapter(), *brought]

    def _trained_without_expression_adapter(self) -> list[str]:
        if self.adapter is not None and not goes_on_saved(self.adapter):
            return read_config(self.adapter).modules
        if not is_saved_pipeline(self.base):
            raise InputError(
                f"adapter '{self.adapter}' goes on what it was trained on, and the base '{self.base}' is no saved "
                "pipeline; give the one that it was made for: base=FOLDER"
            )
        saved = str(read_json(self.base / "model_index.json").get("trained_modules", "")).split(",")
        brought = [] if self.adapter is None else read_config(self.adapter).modules
        return saved + [name for name in brought if name not in ("guidance", *saved)]

    def distillation(self) -> Distillation | None:
        """What a distilled adapter, or else a saved pipeline's transformer, follows; None = it is not distilled."""
        if self.adapter is not None:
            place, values = self.adapter, read_config(self.adapter).distillation
        else:
            place = self.base / "transformer" / "config.json"
            values = read_json(place).get("distillation") if place.is_file() else None  # its absence is told on loading
        return None if values is None else Distillation.read(values, str(place))

    @property
    def places(self) -> dict[str, Path]:
        """Those that there are, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def places_of(self, driven: bool) -> dict[str, Path]:
        """Those that take part in a video whose faces are driven, or in one whose are not."""
        idle = set() if driven else {"expression_encoder"}
        if not driven and not self.expression_changes_speech:
            idle.add("expression_adapter")
        return {name: place for name, place in self.places.items() if name not in idle}

    @property
    def expression_changes_speech(self) -> bool:
        """Whether a video of sounds alone is another with the expression's adapter: where it brings more than that
        condition, such as to tell several speakers apart."""
        adapter = self.expression_adapter
        return adapter is not None and adapter.is_dir() and read_config(adapter).modules != ["expression"]

    @property
    def expression_changes_network(self) -> bool:
        """Whether a pipeline that holds the expression's adapter makes another video of sounds alone: where it brings
        a LoRA, or weights of the base, which are there for whatever is made."""
        adapter = self.expression_adapter
        if adapter is None or not adapter.is_dir():
            return False
        config = read_config(adapter)
        return config.lora is not None or config.base_tensors > 0


def find_weights(config: InferConfig, *, driven: bool = False, several: bool = False) -> Weights:
    """The weights that `config` names; nothing is ever downloaded unasked.

    A hub id is looked for in checkpoints/NAME and then in the local cache of the hub.

    Args:
        driven: also what videos need to drive the faces, as far as it is there.
        several: there are several people; what drives faces may also bring what tells them apart by their sounds.
            Without either nothing of it is looked for.

    Raises:
        InputError: some are not there; one line with the command, size and licence of each.
    """
    base_name = config.base or load_model_config(config.model).base
    names = {
        "base": base_name,
        "adapter": config.adapter,
        "audio_encoder": config.audio_encoder,
        "face_encoder": config.face_encoder,
        **({"expression_adapter": config.expression_adapter} if driven or several else {}),
        **({"expression_encoder": config.expression_encoder} if driven else {}),
    }
    found = find_places(names, within=base_name)
    base = found["base"]
    assert base is not None
    lora = None if config.savings.lora is None else existing_file(config.savings.lora, "savings.lora")
    if config.adapter is None and not is_saved_pipeline(base):
        raise InputError(
            f"adapter is not given and the base '{base}' is no saved pipeline; give an adapter folder: adapter=FOLDER"
        )
    adapter = found["adapter"]
    if adapter is not None and is_saved_pipeline(base) and read_config(adapter).modules == ["expression"]:
        # By itself it goes on a saved pipeline, and counts where something drives.
        found["expression_adapter"], adapter = found.get("expression_adapter") or adapter, None
    weights = Weights(base, adapter, found["audio_encoder"], found["face_encoder"], lora)
    if not driven and not several:
        return weights
    weights = _with_expression(weights, found)
    if driven:
        return weights
    adapter = weights.expression_adapter if weights.expression_changes_speech else None
    return replace(weights, expression_adapter=adapter, expression_encoder=None)


def _with_expression(weights: Weights, named: Mapping[str, Path | None]) -> Weights:
    """With adapter and encoder of the expression: those named, or those that stand where such things stand."""
    adapter, encoder = named["expression_adapter"], named.get("expression_encoder")
    inside = weights.base / EXPRESSION_ADAPTER
    if adapter is None and "expression" not in weights.trained_modules() and inside.is_dir():
        adapter = inside
    encoder = encoder or find_expression_encoder(adapter, weights.adapter, weights.base)
    return replace(weights, expression_adapter=adapter, expression_encoder=encoder)


def find_places(names: Mapping[str, str | None], within: str) -> dict[str, Path | None]:
    """The local place of each folder, file or hub id; None for those that are None.

    Args:
        within: what is missing of the parts that stand in this folder is told as the folder.

    Raises:
        InputError: some are not there; one line with the command, size and licence of each.
    """
    found = {name: None if place is None else _find(place) for name, place in names.items()}
    missing = [place for name, place in names.items() if place is not None and found[name] is None]
    # The parts of the miniature stand in one folder, which one command makes.
    missing = [place for place in missing if not (place != within and place.startswith(f"{within}/"))]
    if missing:
        raise InputError(f"weights are missing: {'; '.join(_cure(place) for place in missing)}")
    return found


def is_saved_pipeline(folder: Path) -> bool:
    """Whether `save_pretrained` of our pipeline wrote the folder."""
    index = folder / "model_index.json"
    return index.is_file() and read_json(index).get("_class_name") == "FantasyTalkingPipeline"


def _find(place: str) -> Path | None:
    path = Path(at_hand(place))
    if path.exists():
        return path
    if not HUB_ID.fullmatch(place) or place.startswith(f"{CHECKPOINTS}/"):
        return None
    return _cached(place)


def _cached(hub_id: str) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, local_files_only=True))
    except LocalEntryNotFoundError:
        return None


def _cure(place: str) -> str:
    source = SOURCES.get(place)
    if source is not None:
        return f"'{place}': {source.command} ({source.size}, {source.licence})"
    if HUB_ID.fullmatch(place) and not place.startswith((f"{CHECKPOINTS}/", "outputs/")):
        return f"'{place}': hf download {place} --local-dir {local_folder(place)} (its page tells size and licence)"
    return f"'{place}' does not exist; check the path"
