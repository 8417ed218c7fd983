"""Validation videos during training: a fixed portrait talks, is driven or both, with the weights as they stand.

Training knows no pipeline; its scripts hand it a `PipelineValidationSampler`.
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
from fantasytalking.data.prepare.config import ResolutionBucket
from fantasytalking.encoders.expression import ExpressionEncoder
from fantasytalking.encoders.wav2vec import WAV2VEC_SAMPLE_RATE
from fantasytalking.inference.generate import (
    OUTPUT_SAMPLE_RATE,
    TEMPORAL_STRIDE,
    contact_sheet_indices,
    silence_libraries,
    write_video_contact_sheet,
)
from fantasytalking.inference.model_files import resolve_paths
from fantasytalking.models.guidance_embedder import DistillationSpec
from fantasytalking.models.presets import load_model_config
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.pipeline import DrivingExpression, FantasyTalkingPipeline, encode_driving_video, prepare_portrait
from fantasytalking.pipeline.config import InferConfig
from fantasytalking.pipeline.distillation_limits import (
    check_supported_guidance,
    check_supported_scheduler,
    resolve_num_inference_steps,
)
from fantasytalking.pipeline.loading import find_expression_encoder, find_face_encoder, load_encoders
from fantasytalking.pipeline.schedulers import make_scheduler
from fantasytalking.pipeline.speakers import Speakers
from fantasytalking.training.config import TrainConfig, ValidationConfig
from fantasytalking.training.trainer import ValidationResult

logger = logging.getLogger(__name__)

VIDEO_FILE, CONTACT_SHEET_FILE = "video.mp4", "contact_sheet.png"
DEFAULT_TRAINED_MODULES = "audio,face,motion"
"""Whatever of them a stage does not train is fresh, and adds nothing; so is expression, where a stage has it."""


class PipelineValidationSampler:
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
        settings = load_config(InferConfig, chosen.infer_config or preset_path(config.model, "infer"))
        records = [record for path in config.data.manifests for record in read_manifest(path)]
        clip = _most_common_clip(records, num_people=max(1, len(chosen.driving_videos)))
        overlap = min(settings.overlap_frames, _max_overlap(clip.frames))
        self.infer_config = replace(settings, fps=clip.fps, window_frames=clip.frames, overlap_frames=overlap)
        self.infer_config.validate()
        if config.stage.distillation is not None:
            self._check_student(config.stage.distillation.to_spec(), chosen)
        silence_libraries()
        self.max_text_tokens, self.window_seconds = config.data.max_text_tokens, config.data.audio_window_seconds
        self.paths = _resolve_encoder_paths(config, settings)
        if self._face_encoder_path() is None and "face" in config.stage.trainable:
            logger.warning(
                "validation videos leave face attention out, since there is no face encoder: give "
                "validation.infer_config a "
                "YAML of inference settings with face_encoder"
            )
        self.speakers = self._load_speakers(config, ResolutionBucket(clip.width, clip.height))
        self.speakers.timeline(clip.fps, TEMPORAL_STRIDE)
        self.audio = _read_audio(chosen, OUTPUT_SAMPLE_RATE)

    def _check_student(self, distillation: DistillationSpec, validation: ValidationConfig) -> None:
        """Settings that are the teacher's are the student's too, but for a negative prompt, which it has no branch for.

        Raises:
            InputError: the student is not taught the guidance, the sampler's shift or the number of steps.
        """
        self.infer_config = replace(self.infer_config, negative_prompt="")
        resolve_num_inference_steps(distillation, validation.num_inference_steps)
        check_supported_guidance(
            distillation, self.infer_config.guidance, "", has_driving_video=bool(validation.driving_videos)
        )
        check_supported_scheduler(
            distillation, make_scheduler(self.infer_config.scheduler, self.infer_config.flow_shift)
        )

    def _load_speakers(self, config: TrainConfig, bucket: ResolutionBucket) -> Speakers:
        chosen = config.validation
        assert chosen.image is not None, "validated at the door"
        portrait = prepare_portrait(
            media.read_image(chosen.image),
            [bucket],
            fit=self.infer_config.resize_mode,
            face_index=self.infer_config.selected_faces,
            num_faces=max(1, len(chosen.driving_videos)),
            min_face_fraction=self.infer_config.min_face_fraction,
        )
        samples = _read_audio(chosen, WAV2VEC_SAMPLE_RATE)
        people = Speakers(portrait, () if samples is None else (samples,))
        seconds = chosen.max_seconds if samples is None else len(samples) / WAV2VEC_SAMPLE_RATE
        return (
            replace(people, driving_expressions=self._load_driving_expressions(config, seconds))
            if chosen.driving_videos
            else people
        )

    def _load_driving_expressions(self, config: TrainConfig, max_seconds: float) -> tuple[DrivingExpression, ...]:
        place, expression = self.paths["expression_encoder"], config.stage.expression
        assert expression is not None, "validated at the door"
        if place is None:
            raise InputError(
                "validation.driving_videos is given, and there is no expression encoder to read it beside "
                "stage.init_from or in "
                "the base; give the one that prepared the corpus: validation.expression_encoder=FOLDER"
            )
        encoder = ExpressionEncoder.from_pretrained(place)
        if list(encoder.dims) != expression.dims:
            raise InputError(
                f"expression encoder '{place}' gives {list(encoder.dims)} numbers of head, eye, emotion and mouth, and "
                f"stage.expression.dims is {expression.dims}; give the one that prepared the corpus: "
                "validation.expression_encoder=FOLDER"
            )
        return tuple(
            encode_driving_video(path, encoder, self.infer_config.fps, max_seconds)
            for path in config.validation.driving_videos
        )

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
                self.speakers.portrait,
                self.speakers.waveforms,
                config.prompt,
                self.infer_config.negative_prompt,
                driving_video=self.speakers.driving_expressions,
                motion=config.motion,
                face_scale=None if pipe.face_encoder_path else 0.0,
                expression_scale=self.infer_config.expression_scale,
                background=self.infer_config.background,
                **self.infer_config.guidance.pipeline_kwargs(),
                num_inference_steps=config.num_inference_steps,
                fps=self.infer_config.fps,
                window_frames=self.infer_config.window_frames,
                overlap_frames=self.infer_config.overlap_frames,
                generator=torch.Generator().manual_seed(config.seed),
                output_type="latent",
            )
            if folder is None:
                return ValidationResult({}, None)
            frames = list(pipe.iterate_frames(made.frames, made.num_frames))
        media.write_video(
            folder / VIDEO_FILE, frames, fps=self.infer_config.fps, audio=self.audio, sample_rate=OUTPUT_SAMPLE_RATE
        )
        shown = {number: frames[number] for number in contact_sheet_indices(len(frames))}
        write_video_contact_sheet(folder / CONTACT_SHEET_FILE, shown, self.infer_config.fps)
        metrics = {**self._measure_mouth(frames), "seconds": perf_counter() - start}
        return ValidationResult(metrics, folder / CONTACT_SHEET_FILE, folder / VIDEO_FILE)

    def _pipeline(self, model: FantasyTalkingTransformer3DModel, device: torch.device) -> FantasyTalkingPipeline:
        dtype, base = getattr(torch, self.infer_config.dtype.value), self.paths["base"]
        assert base is not None, "it is always named"
        parts = load_encoders(base, self.paths["audio_encoder"], dtype, {}, lambda _: None)
        for part in parts.values():
            if isinstance(part, torch.nn.Module):
                part.to(device)
        pipe = FantasyTalkingPipeline(
            transformer=model,
            scheduler=make_scheduler(self.infer_config.scheduler, self.infer_config.flow_shift),
            trained_modules=f"{DEFAULT_TRAINED_MODULES},expression"
            if self.speakers.driving_expressions
            else DEFAULT_TRAINED_MODULES,
            window_seconds=self.window_seconds,
            text_length=self.max_text_tokens,
            **parts,
        )
        pipe.face_encoder_path = self._face_encoder_path()
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def _face_encoder_path(self) -> Path | None:
        base = self.paths["base"]
        assert base is not None, "it is always named"
        return self.paths["face_encoder"] or find_face_encoder(base)

    def _measure_mouth(self, frames: Sequence[NDArray[np.uint8]]) -> dict[str, float]:
        """Share of frames with a face and, where there are any, how fast the mouth moves."""
        from fantasytalking.perception.mouth_curve import mouth_curve

        timed = ((number / self.infer_config.fps, frame) for number, frame in enumerate(frames))
        heard = self.speakers.waveforms[0] if self.speakers.waveforms else np.zeros(0, np.float32)
        curve = mouth_curve(timed, heard, WAV2VEC_SAMPLE_RATE)
        moved = {} if np.isnan(curve.mean_opening_speed) else {"mouth_movement": curve.mean_opening_speed}
        return {"face_seen": curve.visible_fraction, **moved}


def _resolve_encoder_paths(config: TrainConfig, infer_config: InferConfig) -> dict[str, Path | None]:
    """Places of the base and of the encoders outside it; that of expressions is None where there is none."""
    base = infer_config.base or config.base or load_model_config(config.model).base
    named = config.validation.expression_encoder or infer_config.expression_encoder
    names = {"base": base, "audio_encoder": infer_config.audio_encoder, "face_encoder": infer_config.face_encoder}
    found = resolve_paths(
        {**names, "expression_encoder": named if config.validation.driving_videos else None}, base_source=base
    )
    place = found["base"]
    assert place is not None, "it is always named"
    if not (place / "vae").is_dir():
        raise InputError(
            f"validation needs the encoders beside the base, and '{place}' has no vae; name a diffusers folder as base "
            "in a YAML of inference settings and give it as validation.infer_config"
        )
    if found["expression_encoder"] is None:
        found["expression_encoder"] = find_expression_encoder(config.stage.init_from, place)
    return found


def _read_audio(validation: ValidationConfig, sample_rate: int) -> NDArray[np.float32] | None:
    if validation.audio is None:
        return None
    return media.read_audio(validation.audio, sample_rate=sample_rate, duration=validation.max_seconds)


def _most_common_clip(records: list[ClipRecord], num_people: int) -> ClipRecord:
    """A clip of the size, length and frame rate that most clips have of so many people, or most of all."""
    alike = [record for record in records if record.people == num_people] or records
    kinds = Counter((record.width, record.height, record.frames, record.fps) for record in alike)
    kind = kinds.most_common(1)[0][0]
    return next(record for record in alike if (record.width, record.height, record.frames, record.fps) == kind)


def _max_overlap(num_frames: int) -> int:
    """The most that windows of so many frames may overlap: half, in whole latent frames."""
    return max(4, (num_frames - 1) // 8 * 4)
