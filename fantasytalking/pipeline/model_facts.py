"""States what a model can do: everything that a request is checked against before anything is computed."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from fantasytalking.checkpoints.adapter import AdapterConfig
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.face_range import FaceRanges
from fantasytalking.latent_geometry import LatentGeometry
from fantasytalking.models.guidance_embedder import DistillationSpec
from fantasytalking.models.wan_loading import adapter_modules


@dataclass(frozen=True)
class ModelFacts:
    """What a model can do: everything that a request is checked against before anything is computed."""

    trained_modules: tuple[str, ...]
    """Trained modules among audio, face, motion, expression and registered conditions."""
    distillation: DistillationSpec | None
    """None: the model is not distilled."""
    geometry: LatentGeometry
    has_face_encoder: bool
    has_expression_encoder: bool
    """Whether driving videos can be read; driving expressions that are ready need no encoder."""
    face_ranges: FaceRanges = field(default_factory=dict)
    """Sizes and places of faces that the model was trained on, by number of people; empty: unknown."""
    has_experts: bool = False
    """Whether two transformers share the noise levels."""
    conditions: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Sizes of the model's registered conditions, by name."""


def check_pipeline_config(trained_modules: str, audio_window: str, window_seconds: float, text_length: int) -> None:
    """Validates the description of a pipeline: its arguments besides its components.

    Raises:
        InputError: an unknown module, or an audio window or text length outside its limits.
    """
    known, names = [name for name in adapter_modules() if name != "guidance"], trained_modules.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(
            f"pipeline: trained_modules is {names}; it must be some of {', '.join(known)}",
            code=ErrorCode.invalid_choice,
            field="trained_modules",
            value=unknown[0],
        )
    AdapterConfig(["audio"], audio_window, window_seconds).validate("pipeline")
    if type(text_length) is not int or not 1 <= text_length <= 4096:
        raise InputError(
            f"pipeline: text_length is {text_length!r}; it must be 1 to 4096 (Wan: 512)",
            code=ErrorCode.out_of_range,
            field="text_length",
            value=text_length,
        )
