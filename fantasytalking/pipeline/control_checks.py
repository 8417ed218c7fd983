"""What a model can be asked for: the controls of modules that were never trained are refused, not ignored."""

from collections.abc import Sequence

from fantasytalking.checkpoints.adapter import AdapterConfig
from fantasytalking.common.errors import InputError
from fantasytalking.models.wan_loading import ADAPTER_MODULES

NEUTRAL_MOTION = 0.5


def checked_motion(trained_modules: Sequence[str], expression_motion: float, body_motion: float) -> tuple[float, float]:
    """Expression and body intensity, checked.

    Args:
        trained_modules: of audio, face and motion, those that were trained.

    Raises:
        InputError: outside [0, 1], or not neutral where the motion module was never trained.
    """
    for name, value in (("expression", expression_motion), ("body", body_motion)):
        if not 0 <= value <= 1:
            raise InputError(f"{name} motion is {value}; it must be 0 to 1 (0.5 = neutral)")
    if "motion" not in trained_modules and (expression_motion, body_motion) != (NEUTRAL_MOTION, NEUTRAL_MOTION):
        raise InputError(
            f"motion {expression_motion:g} / {body_motion:g} (expression / body) was asked for, but this model's "
            "motion module was "
            "never trained; leave motion at 0.5, or use an adapter that has it"
        )
    return expression_motion, body_motion


def checked_face_scale(trained_modules: Sequence[str], face_scale: float | None, has_face_encoder: bool) -> float:
    """Weight of the face attention; None = 1 where it was trained, else 0.

    Raises:
        InputError: outside [0, 10], above 0 where the face module was never trained, or without a face encoder.
    """
    trained = "face" in trained_modules
    weight = float(trained) if face_scale is None else face_scale
    if not 0 <= weight <= 10:
        raise InputError(f"face_scale is {weight}; it must be 0 to 10 (1 = as trained)")
    if weight and not trained:
        raise InputError(
            f"face_scale {weight:g} was asked for, but this model's face module was never trained; leave it out, or "
            "use an adapter that has it"
        )
    if weight and not has_face_encoder:
        raise InputError("this model reads the face, but has no face encoder; give an ArcFace .onnx, or face_scale=0")
    return weight


def checked_expression_scale(expression_scale: float) -> float:
    """Weight of the expression attention, checked.

    Raises:
        InputError: outside [0, 10].
    """
    if not 0 <= expression_scale <= 10:
        raise InputError(f"expression_scale is {expression_scale}; it must be 0 to 10 (1 = as trained)")
    return expression_scale


def check_driving_supported(trained_modules: Sequence[str], has_expression_encoder: bool) -> None:
    """Holds that the faces of the model can be driven by videos.

    Raises:
        InputError: it has no expression module, or there is no encoder that reads the drivers.
    """
    if "expression" not in trained_modules:
        raise InputError(
            "a driver was given, but this model has no expression module that it could drive; give an adapter that has "
            "one: expression_adapter=FOLDER"
        )
    if not has_expression_encoder:
        raise InputError(
            "a driver was given, but there is no expression encoder to read it; give the one that the model was "
            "trained with: expression_encoder=FOLDER"
        )


def check_trained_modules(trained_modules: Sequence[str], audio_window: str, window_seconds: float) -> None:
    """Holds what a pipeline says of its training.

    Raises:
        InputError: an unknown module, or an audio window outside its limits.
    """
    known = [name for name in ADAPTER_MODULES if name != "guidance"]
    unknown = [name for name in trained_modules if name not in known]
    if unknown:
        raise InputError(
            f"pipeline: modules is {list(trained_modules)}; a list of some of {', '.join(known)} is needed"
        )
    AdapterConfig(["audio"], audio_window, window_seconds).validate("pipeline")


def check_audio_supported(trained_modules: Sequence[str]) -> None:
    """Holds that the model can hear.

    Raises:
        InputError: its audio module was never trained.
    """
    if "audio" not in trained_modules:
        raise InputError("this model's audio module was never trained, so nobody would speak; use another adapter")
