"""Validation videos during training: a fixed portrait talks, is driven or both, with the weights as they stand.

Training knows no pipeline; its scripts hand it a `PortraitValidation`.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray

from fantasytalking import media
from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import InputError
from fantasytalking.data.manifest import ClipRecord, read_manifest
from fantasytalking.data.prepare.config import Bucket
from fantasytalking.encoders.expression import ExpressionEncoder
from fantasytalking.encoders.wav2vec import SAMPLE_RATE
from fantasytalking.inference.generate import SOUND_RATE, STRIDE, quiet, sheet_moments, write_sheet
from fantasytalking.inference.model_files import find_places
from fantasytalking.models.guidance_embedder import Distillation
from fantasytalking.models.presets import load_model_config
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.pipeline import Driver, FantasyTalkingPipeline, frame_portrait, read_driver
from fantasytalking.pipeline.config import InferConfig
from fantasytalking.pipeline.distillation_limits import check_followed, check_sampler, step_count
from fantasytalking.pipeline.loading import find_expression_encoder, find_onnx, load_encoders
from fantasytalking.pipeline.schedulers import make_scheduler
from fantasytalking.pipeline.speakers import People
from fantasytalking.training.config import TrainConfig
from fantasytalking.training.trainer import ValidationResult
from fantasytalking.training.validation_config import ValidationConfig

logger = logging.getLogger(__name__)

VIDEO, SHEET = "video.mp4", "contact_sheet.png"
TRAINED = "audio,face,motion"
"""Whatever of them a stage does not train is fresh, and adds nothing; so is expression, where a stage has it."""


class PortraitValidation:
    """Makes the validation videos of a run; everything that can be refused is refused when it is made.

    Size, length of a window and frame rate are the corpus' own, of clips with as many people as are driven where there
    are any; guidance and encoders are those of the inference settings. The encoders are loaded for each video and let
    go after it, so that training has the memory in between; drivers are read once. Sound is heard through the
    frame-level windows of inference, also while stage 1 trains on clip-level ones.

    Raises:
        InputError: portrait, sound, a driver, inference settings or an encoder cannot be used.
    """

    def __init__(self, config: TrainConfig) -> None:
        chosen = config.validation
        settings = load_config(InferConfig, chosen.infer or preset_path(config.model, "infer"))
        records = [record for path in config.data.manifests for record in read_manifest(path)]
        clip = _commonest(records, people=max(1, len(chosen.drive)))
        overlap = min(settings.overlap_frames, _half_of(clip.frames))
        self.settings = replace(settings, fps=clip.fps, window_frames=clip.frames, overlap_frames=overlap)
        self.settings.validate()
        if config.stage.distillation is not None:
            self._follow(config.stage.distillation.described(), chosen)
        quiet()
        self.text_length, self.window_seconds = config.data.text_length, config.data.window_seconds
        self.places = _find_encoders(config, settings)
        if self._face_network() is None and "face" in config.stage.trainable:
            logger.warning(
                "validation videos leave face attention out, since there is no face encoder: give validation.infer a "
                "YAML of inference settings with face_encoder"
            )
        self.people = self._read_people(config, Bucket(clip.width, clip.height))
        self.people.timing(clip.fps, STRIDE)
        self.sound = _read_sound(chosen, SOUND_RATE)

    def _follow(self, distillation: Distillation, chosen: ValidationConfig) -> None:
        """Settings that are the teacher's are the student's too, but for a negative prompt, which it has no branch for.

        Raises:
            InputError: the student is not taught the guidance, the sampler's shift or the number of steps.
        """
        self.settings = replace(self.settings, negative_prompt="")
        step_count(distillation, chosen.steps)
        check_followed(distillation, self.settings.guidance, "", driven=bool(chosen.drive))
        check_sampler(distillation, make_scheduler(self.settings.sampler, self.settings.shift))

    def _read_people(self, config: TrainConfig, size: Bucket) -> People:
        chosen = config.validation
        assert chosen.portrait is not None, "validated at the door"
        portrait = frame_portrait(
            media.read_image(chosen.portrait),
            [size],
            fit=self.settings.fit,
            face=self.settings.chosen_faces,
            people=max(1, len(chosen.drive)),
            least_face=self.settings.least_face,
        )
        samples = _read_sound(chosen, SAMPLE_RATE)
        people = People(portrait, () if samples is None else (samples,))
        seconds = chosen.seconds if samples is None else len(samples) / SAMPLE_RATE
        return replace(people, drivers=self._read_drivers(config, seconds)) if chosen.drive else people

    def _read_drivers(self, config: TrainConfig, seconds: float) -> tuple[Driver, ...]:
        place, expression = self.places["expression_encoder"], config.stage.expression
        assert expression is not None, "validated at the door"
        if place is None:
            raise InputError(
                "validation.drive is given, and there is no expression encoder to read it beside stage.init_from or in "
                "the base; give the one that prepared the corpus: validation.expression_encoder=FOLDER"
            )
        encoder = ExpressionEncoder.from_pretrained(place)
        if list(encoder.dims) != expression.dims:
            raise InputError(
                f"expression encoder '{place}' gives {list(encoder.dims)} numbers of head, eye, emotion and mouth, and "
                f"stage.expression.dims is {expression.dims}; give the one that prepared the corpus: "
                "validation.expression_encoder=FOLDER"
            )
        return tuple(read_driver(path, encoder, self.settings.fps, seconds) for path in config.validation.drive)

    def __call__(
        self,
        model: FantasyTalkingTransformer3DModel,
        config: ValidationConfig,
        folder: Path | None,
        dtype: torch.dtype | None,
    ) -> ValidationResult:
        """Writes video.mp4 and contact_sheet.png; see `fantasytalking.training.trainer.ValidationSampler`."""
        start = perf_counter()
        device = next(model.parameters()).device
        pipe = self._pipeline(model, device)
        pipe.input_dtype = dtype
        # The model's own forward casts as training does; VAE and wav2vec2 stay in float32.
        with torch.autocast(device.type, enabled=False):
            made = pipe(
                self.people.portrait,
                self.people.sounds,
                config.prompt,
                self.settings.negative_prompt,
                drive=self.people.drivers,
                motion=config.motion,
                face_scale=None if pipe.face_network else 0.0,
                expression_scale=self.settings.expression_scale,
                background=self.settings.background,
                **self.settings.guidance.arguments(),
                num_inference_steps=config.steps,
                fps=self.settings.fps,
                window_frames=self.settings.window_frames,
                overlap_frames=self.settings.overlap_frames,
                generator=torch.Generator().manual_seed(config.seed),
                output_type="latent",
            )
            if folder is None:
                return ValidationResult({}, None)
            frames = list(pipe.iterate_frames(made.frames, made.num_frames))
        media.write_video(folder / VIDEO, frames, fps=self.settings.fps, audio=self.sound, sample_rate=SOUND_RATE)
        shown = {number: frames[number] for number in sheet_moments(len(frames))}
        write_sheet(folder / SHEET, shown, self.settings.fps)
        metrics = {**self._measured(frames), "seconds": perf_counter() - start}
        return ValidationResult(metrics, folder / SHEET, folder / VIDEO)

    def _pipeline(self, model: FantasyTalkingTransformer3DModel, device: torch.device) -> FantasyTalkingPipeline:
        dtype, base = getattr(torch, self.settings.precision.value), self.places["base"]
        assert base is not None, "it is always named"
        parts = load_encoders(base, self.places["audio_encoder"], dtype, {}, lambda _: None)
        for part in parts.values():
            if isinstance(part, torch.nn.Module):
                part.to(device)
        pipe = FantasyTalkingPipeline(
            transformer=model,
            scheduler=make_scheduler(self.settings.sampler, self.settings.shift),
            trained_modules=f"{TRAINED},expression" if self.people.drivers else TRAINED,
            window_seconds=self.window_seconds,
            text_length=self.text_length,
            **parts,
        )
        pipe.face_network = self._face_network()
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def _face_network(self) -> Path | None:
        base = self.places["base"]
        assert base is not None, "it is always named"
        return self.places["face_encoder"] or find_onnx(base)

    def _measured(self, frames: Sequence[NDArray[np.uint8]]) -> dict[str, float]:
        """Share of frames with a face and, where there are any, how fast the mouth moves."""
        from fantasytalking.perception.mouth_curve import mouth_curve

        timed = ((number / self.settings.fps, frame) for number, frame in enumerate(frames))
        heard = self.people.sounds[0] if self.people.sounds else np.zeros(0, np.float32)
        curve = mouth_curve(timed, heard, SAMPLE_RATE)
        moved = {} if np.isnan(curve.movement) else {"mouth_movement": curve.movement}
        return {"face_seen": curve.seen, **moved}


def _find_encoders(config: TrainConfig, settings: InferConfig) -> dict[str, Path | None]:
    """Places of the base and of the encoders outside it; that of expressions is None where there is none."""
    base = settings.base or config.base or load_model_config(config.model).base
    named = config.validation.expression_encoder or settings.expression_encoder
    names = {"base": base, "audio_encoder": settings.audio_encoder, "face_encoder": settings.face_encoder}
    found = find_places({**names, "expression_encoder": named if config.validation.drive else None}, within=base)
    place = found["base"]
    assert place is not None, "it is always named"
    if not (place / "vae").is_dir():
        raise InputError(
            f"validation needs the encoders beside the base, and '{place}' has no vae; name a diffusers folder as base "
            "in a YAML of inference settings and give it as validation.infer"
        )
    if found["expression_encoder"] is None:
        found["expression_encoder"] = find_expression_encoder(config.stage.init_from, place)
    return found


def _read_sound(chosen: ValidationConfig, rate: int) -> NDArray[np.float32] | None:
    if chosen.audio is None:
        return None
    return media.read_audio(chosen.audio, sample_rate=rate, duration=chosen.seconds)


def _commonest(records: list[ClipRecord], people: int) -> ClipRecord:
    """A clip of the size, length and frame rate that most clips have of so many people, or most of all."""
    alike = [record for record in records if record.people == people] or records
    kinds = Counter((record.width, record.height, record.frames, record.fps) for record in alike)
    kind = kinds.most_common(1)[0][0]
    return next(record for record in alike if (record.width, record.height, record.frames, record.fps) == kind)


def _half_of(frames: int) -> int:
    """The most that windows of so many frames may overlap: half, in whole latent frames."""
    return max(4, (frames - 1) // 8 * 4)
