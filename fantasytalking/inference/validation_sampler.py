"""Validation videos during training: a fixed portrait that speaks, is driven, or both, with the current weights.

Training does not know the pipeline; its scripts pass it a `PipelineValidationSampler`.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray

from fantasytalking import media
from fantasytalking.audio_tokens import AUDIO_SAMPLE_RATE, check_same_encoder
from fantasytalking.checkpoints.adapter import load_adapter
from fantasytalking.checkpoints.expression_adapter import ensure_expression_modules
from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.common.hub import resolve_local
from fantasytalking.data.dataset import corpus_audio_encoder
from fantasytalking.data.manifest import ClipRecord, corpus_face_ranges, read_manifest
from fantasytalking.encoders.audio_loading import load_audio_encoder
from fantasytalking.encoders.base_geometry import read_geometry
from fantasytalking.encoders.encoder_folders import find_expression_encoder, find_face_encoder
from fantasytalking.encoders.expression import ExpressionEncoder
from fantasytalking.inference.config import InferConfig
from fantasytalking.inference.console import silence_libraries
from fantasytalking.inference.model_sources import resolve_paths
from fantasytalking.inference.video_outputs import (
    OUTPUT_SAMPLE_RATE,
    contact_sheet_indices,
    write_video_contact_sheet,
)
from fantasytalking.latent_geometry import LatentGeometry
from fantasytalking.models.experts import Expert
from fantasytalking.models.presets import load_model_config
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.models.wan_loading import load_from_wan
from fantasytalking.pipeline import (
    DrivingExpression,
    FantasyTalkingPipeline,
    GenerationControls,
    ModelFacts,
    Speakers,
    encode_driving_video,
    plan_generation,
)
from fantasytalking.pipeline.loading.model_components import load_encoders
from fantasytalking.pipeline.loading.options import LoadingOptions
from fantasytalking.pipeline.portrait import report_framing
from fantasytalking.pipeline.schedulers import make_scheduler
from fantasytalking.training.config import TrainConfig, ValidationConfig
from fantasytalking.training.trainer import ValidationResult

logger = logging.getLogger(__name__)

VIDEO_FILE, CONTACT_SHEET_FILE = "video.mp4", "contact_sheet.png"
DEFAULT_TRAINED_MODULES = "audio,face,motion"
"""Modules that a stage does not train are freshly initialized and add nothing; so is expression, where it exists."""


class PipelineValidationSampler:
    """Generates the validation videos of a run; the constructor checks everything that can be checked.

    Size, window length, frame rate and the range of faces are those of the corpus, of clips with as many people as are
    driven where there are any; guidance and encoders are those of the inference configuration. The encoders are loaded
    for each video and released after it, so that training has the memory in between, and so is, for a base of two
    experts, the one that does not train; driving videos are read once.
    Audio is encoded with the frame-level windows of inference, also while stage 1 trains on clip-level windows.

    Raises:
        InputError: portrait, audio, a driving video, the inference configuration or an encoder cannot be used.
    """

    def __init__(self, config: TrainConfig) -> None:
        validation = config.validation
        infer_config = load_config(InferConfig, validation.infer_config or preset_path(config.model, "infer"))
        self.paths = _resolve_encoder_paths(config, infer_config)
        base = self.paths["base"]
        assert base is not None, "the base is always named"
        self.base = base
        self.face_encoder_path = self.paths["face_encoder"] or find_face_encoder(base)
        geometry = read_geometry(base)
        records = [record for path in config.data.manifests for record in read_manifest(path)]
        clip = _most_common_clip(records, num_people=max(1, len(validation.driving_videos)))
        overlap = min(infer_config.overlap_frames, _max_overlap(clip.frames, geometry.temporal_stride))
        if config.stage.distillation is not None:  # a student has no branch for a negative prompt
            infer_config = replace(infer_config, negative_prompt="")
        self.infer_config = replace(
            infer_config,
            fps=clip.fps,
            window_frames=clip.frames,
            overlap_frames=overlap,
            sizes=[f"{clip.width}x{clip.height}"],
        )
        self.infer_config.validate()
        self.face_ranges = corpus_face_ranges(records)
        self._check_audio_encoder(config)
        self._check_controls(config, geometry)
        silence_libraries()
        self.expert, self._model_config = config.stage.expert, load_model_config(config.model)
        self.max_text_tokens, self.window_seconds = config.data.max_text_tokens, config.data.audio_window_seconds
        if self.face_encoder_path is None and "face" in config.stage.trainable:
            logger.warning(
                "validation videos leave out face attention, since there is no face encoder: give "
                "validation.infer_config a YAML of inference settings with face_encoder"
            )
        self.speakers = self._load_speakers(config)
        self.speakers.timeline(clip.fps, geometry.temporal_stride)
        self.audio = _read_audio(validation, OUTPUT_SAMPLE_RATE)

    def _check_audio_encoder(self, config: TrainConfig) -> None:
        """Checks that the audio encoder of the videos is that of the clips."""
        manifests = [Path(path) for path in config.data.manifests]
        clips = [path.parent / record.features for path in manifests for record in read_manifest(path)]
        corpus = corpus_audio_encoder(manifests, clips)
        separate = self.paths["audio_encoder"]
        folder, subfolder = (self.base, "audio_encoder") if separate is None else (separate, "")
        if corpus is not None:
            check_same_encoder(
                load_audio_encoder(folder, subfolder=subfolder).spec,
                corpus,
                f"the audio encoder of validation.infer_config, '{folder}', is",
                "as the clips were prepared with: give that one",
            )

    def _check_controls(self, config: TrainConfig, geometry: LatentGeometry) -> None:
        """Checks the controls against the trained model: a student follows only what it is distilled for."""
        distillation = config.stage.distillation
        facts = ModelFacts(
            tuple(self._trained_modules(config.validation).split(",")),
            None if distillation is None else distillation.to_spec(),
            geometry,
            has_face_encoder=self.face_encoder_path is not None,
            has_expression_encoder=self.paths["expression_encoder"] is not None,
            has_experts=config.stage.expert is not None,
        )
        plan_generation(
            facts,
            self._controls(config.validation),
            has_audio=config.validation.audio is not None,
            has_driving_video=bool(config.validation.driving_videos),
            needs_expression_encoder=False,
            scheduler=make_scheduler(self.infer_config.scheduler, self.infer_config.flow_shift),
        )

    def _controls(self, validation: ValidationConfig) -> GenerationControls:
        return replace(
            self.infer_config.controls(),
            prompt=validation.prompt,
            expression_motion=validation.motion,
            body_motion=validation.motion,
            face_scale=None if self.face_encoder_path else 0.0,
            num_inference_steps=validation.num_inference_steps,
        )

    def _trained_modules(self, validation: ValidationConfig) -> str:
        return f"{DEFAULT_TRAINED_MODULES},expression" if validation.driving_videos else DEFAULT_TRAINED_MODULES

    def _load_speakers(self, config: TrainConfig) -> Speakers:
        validation = config.validation
        assert validation.image is not None, "validate() requires it"
        num_faces = max(1, len(validation.driving_videos))
        options = self.infer_config.portrait_options(self.face_ranges)
        portrait = report_framing(options.prepare(validation.image, num_faces), validation.image, options)
        waveform = _read_audio(validation, AUDIO_SAMPLE_RATE)
        speakers = Speakers(portrait, () if waveform is None else (waveform,))
        if not validation.driving_videos:
            return speakers
        seconds = validation.max_seconds if waveform is None else len(waveform) / AUDIO_SAMPLE_RATE
        return replace(speakers, driving_expressions=self._load_driving_expressions(config, seconds))

    def _load_driving_expressions(self, config: TrainConfig, max_seconds: float) -> tuple[DrivingExpression, ...]:
        path, expression = self.paths["expression_encoder"], config.stage.expression
        assert expression is not None, "validate() requires it"
        if path is None:
            raise InputError(
                "validation.driving_videos is given, but there is no expression encoder beside stage.init_from or in "
                "the base; give the one that prepared the corpus: validation.expression_encoder=FOLDER",
                code=ErrorCode.missing_value,
                field="validation.expression_encoder",
            )
        encoder = ExpressionEncoder.from_pretrained(path)
        if list(encoder.dims) != expression.dims:
            raise InputError(
                f"expression encoder '{path}' returns {list(encoder.dims)} features of head, eye, emotion and mouth, "
                f"and stage.expression.dims is {expression.dims}; give the encoder that prepared the corpus: "
                "validation.expression_encoder=FOLDER",
                code=ErrorCode.shape_mismatch,
                field="validation.expression_encoder",
                value=str(path),
            )
        return tuple(
            encode_driving_video(video, encoder, self.infer_config.fps, max_seconds)
            for video in config.validation.driving_videos
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
        pipe = self._pipeline(model, config, device, dtype or model.dtype)
        pipe.input_dtype = dtype
        # The model's own forward casts as in training; VAE and audio encoder stay in float32.
        with torch.autocast(device.type, enabled=False):
            output = pipe(
                self.speakers.portrait,
                self.speakers.waveforms,
                controls=self._controls(config),
                driving_video=self.speakers.driving_expressions,
                generator=torch.Generator().manual_seed(config.seed),
                output_type="latent",
            )
            if folder is None:
                return ValidationResult({}, None)
            frames = list(pipe.iterate_frames(output.frames, output.num_frames))
        fps = self.infer_config.fps
        media.write_video(folder / VIDEO_FILE, frames, fps=fps, audio=self.audio, sample_rate=OUTPUT_SAMPLE_RATE)
        shown = {index: frames[index] for index in contact_sheet_indices(len(frames))}
        write_video_contact_sheet(folder / CONTACT_SHEET_FILE, shown, fps)
        metrics = {**self._measure_mouth(frames), "seconds": perf_counter() - start}
        return ValidationResult(metrics, folder / CONTACT_SHEET_FILE, folder / VIDEO_FILE)

    def _pipeline(
        self,
        model: FantasyTalkingTransformer3DModel,
        config: ValidationConfig,
        device: torch.device,
        dtype: torch.dtype,
    ) -> FantasyTalkingPipeline:
        options = LoadingOptions(dtype=self.infer_config.dtype.torch_dtype)
        components = load_encoders(
            self.base,
            self.paths["audio_encoder"],
            options,
            {},
            lambda _: None,
            has_image_encoder=model.config.image_dim is not None,
        )
        for component in components.values():
            if isinstance(component, torch.nn.Module):
                component.to(device)
        transformers = {Expert.high: model}
        if self.expert is not None:
            other = Expert.low if self.expert is Expert.high else Expert.high
            transformers = {self.expert: model, other: self._load_other_expert(model, other, dtype).to(device)}
        pipe = FantasyTalkingPipeline(
            transformer=transformers[Expert.high],
            transformer_2=transformers.get(Expert.low),
            boundary_ratio=self._model_config.boundary_ratio,
            scheduler=make_scheduler(self.infer_config.scheduler, self.infer_config.flow_shift),
            trained_modules=self._trained_modules(config),
            window_seconds=self.window_seconds,
            text_length=self.max_text_tokens,
            **components,
        )
        pipe.face_encoder_path = self.face_encoder_path
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def _load_other_expert(
        self, model: FantasyTalkingTransformer3DModel, expert: Expert, dtype: torch.dtype
    ) -> FantasyTalkingTransformer3DModel:
        """The expert that does not train, with the adapter that the inference configuration names for it.

        While that adapter does not exist, it predicts as the base does. The trained model casts its inputs itself; this
        one has their dtype.
        """
        other = load_from_wan(self.base, asdict(self._model_config.portrait), dtype, subfolder=expert.component)
        if model.expression_config is not None:
            ensure_expression_modules(other, model.expression_config)
        adapter = self.infer_config.adapter if expert is Expert.high else self.infer_config.adapter_2
        folder = None if adapter is None else Path(resolve_local(adapter))
        if folder is not None and folder.is_dir():
            load_adapter(other, folder)
        return other.requires_grad_(False).eval()

    def _measure_mouth(self, frames: Sequence[NDArray[np.uint8]]) -> dict[str, float]:
        """Returns the fraction of frames with a face and, where there are any, the speed of the mouth."""
        from fantasytalking.perception.mouth_curve import mouth_curve

        timed = ((index / self.infer_config.fps, frame) for index, frame in enumerate(frames))
        waveform = self.speakers.waveforms[0] if self.speakers.waveforms else np.zeros(0, np.float32)
        curve = mouth_curve(timed, waveform, AUDIO_SAMPLE_RATE)
        movement = {} if np.isnan(curve.mean_opening_speed) else {"mouth_movement": curve.mean_opening_speed}
        return {"face_seen": curve.visible_fraction, **movement}


def _resolve_encoder_paths(config: TrainConfig, infer_config: InferConfig) -> dict[str, Path | None]:
    """Paths of the base and of the encoders outside it; None for those that do not exist."""
    base = infer_config.base or config.base or load_model_config(config.model).base
    expression_encoder = config.validation.expression_encoder or infer_config.expression_encoder
    found = resolve_paths(
        {
            "base": base,
            "audio_encoder": infer_config.audio_encoder,
            "face_encoder": infer_config.face_encoder,
            "expression_encoder": expression_encoder if config.validation.driving_videos else None,
        },
        base_source=base,
    )
    folder = found["base"]
    assert folder is not None, "the base is always named"
    if not (folder / "vae").is_dir():
        raise InputError(
            f"validation needs the encoders beside the base, and '{folder}' has no vae; name a diffusers folder as "
            "base in a YAML of inference settings, and give it as validation.infer_config",
            code=ErrorCode.missing_weights,
            field="validation.infer_config",
            value=str(folder),
        )
    if found["expression_encoder"] is None:
        found["expression_encoder"] = find_expression_encoder(
            None if config.stage.init_from is None else resolve_local(config.stage.init_from), folder
        )
    return found


def _read_audio(validation: ValidationConfig, sample_rate: int) -> NDArray[np.float32] | None:
    if validation.audio is None:
        return None
    return media.read_audio(validation.audio, sample_rate=sample_rate, duration=validation.max_seconds)


def _most_common_clip(records: list[ClipRecord], num_people: int) -> ClipRecord:
    """A clip of the most common size, length and frame rate among clips with `num_people` people, or among all."""
    candidates = [record for record in records if record.people == num_people] or records
    formats = Counter((record.width, record.height, record.frames, record.fps) for record in candidates)
    most_common = formats.most_common(1)[0][0]
    return next(
        record for record in candidates if (record.width, record.height, record.frames, record.fps) == most_common
    )


def _max_overlap(num_frames: int, temporal_stride: int) -> int:
    """Largest overlap of windows of `num_frames` frames: half, in whole latent frames."""
    return max(temporal_stride, (num_frames - 1) // (2 * temporal_stride) * temporal_stride)
