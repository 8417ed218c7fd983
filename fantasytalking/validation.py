"""Validation videos during training: a fixed portrait says a fixed sentence with the weights as they stand.

Training knows no pipeline; its scripts hand it a `PortraitValidation`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from numpy.typing import NDArray

from fantasytalking import media
from fantasytalking.config import load_config, preset_path
from fantasytalking.data.manifest import ClipRecord, read_manifest
from fantasytalking.data.settings import Bucket
from fantasytalking.encoders.wav2vec import SAMPLE_RATE
from fantasytalking.errors import InputError
from fantasytalking.models.presets import load_model_config
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.pipeline import FantasyTalkingPipeline, frame_portrait
from fantasytalking.pipeline.loading import find_onnx, load_encoders
from fantasytalking.pipeline.run import SOUND_RATE, quiet, sheet_moments, write_sheet
from fantasytalking.pipeline.scheduling import make_scheduler
from fantasytalking.pipeline.settings import InferConfig
from fantasytalking.pipeline.weights import find_places
from fantasytalking.training.config import TrainConfig, ValidationConfig
from fantasytalking.training.trainer import ValidationResult

VIDEO, SHEET = "video.mp4", "contact_sheet.png"
TRAINED = "audio,face,motion"
"""Whatever of them a stage does not train is fresh, and adds nothing."""


class PortraitValidation:
    """Makes the validation videos of a run; everything that can be refused is refused when it is made.

    Size, length of a window and frame rate are the corpus' own, guidance and encoders those of the inference settings.
    The encoders are loaded for each video and let go after it, so that training has the memory in between. Sound is
    heard through the frame-level windows of inference, also while stage 1 trains on clip-level ones.

    Raises:
        InputError: portrait, sound, inference settings or an encoder cannot be used.
    """

    def __init__(self, config: TrainConfig) -> None:
        chosen = config.validation
        assert chosen.portrait is not None and chosen.audio is not None, "validated at the door"
        settings = load_config(InferConfig, chosen.infer or preset_path(config.model, "infer"))
        clip = _commonest([record for path in config.data.manifests for record in read_manifest(path)])
        overlap = min(settings.overlap_frames, _half_of(clip.frames))
        self.settings = replace(settings, fps=clip.fps, window_frames=clip.frames, overlap_frames=overlap)
        self.settings.validate()
        quiet()
        self.text_length, self.window_seconds = config.data.text_length, config.data.window_seconds
        base = settings.base or config.base or load_model_config(config.model).base
        names = {"base": base, "audio_encoder": settings.audio_encoder, "face_encoder": settings.face_encoder}
        self.places = find_places(names, within=base)
        if not (self._base / "vae").is_dir():
            raise InputError(
                f"validation needs the encoders beside the base, and '{self._base}' has no vae; name a diffusers "
                "folder as base in a YAML of inference settings and give it as validation.infer"
            )
        self.portrait = frame_portrait(
            media.read_image(chosen.portrait),
            [Bucket(clip.width, clip.height)],
            fit=settings.fit,
            face=settings.face,
            least_face=settings.least_face,
        )
        self.samples, self.sound = (
            media.read_audio(chosen.audio, sample_rate=rate, duration=chosen.seconds)
            for rate in (SAMPLE_RATE, SOUND_RATE)
        )

    def __call__(
        self, model: FantasyTalkingTransformer3DModel, config: ValidationConfig, folder: Path | None
    ) -> ValidationResult:
        """Writes video.mp4 and contact_sheet.png; see `fantasytalking.training.trainer.ValidationSampler`."""
        start = perf_counter()
        device = next(model.parameters()).device
        pipe = self._pipeline(model, device)
        # The model's own forward casts as training does; VAE and wav2vec2 stay in float32.
        with torch.autocast(device.type, enabled=False):
            made = pipe(
                self.portrait,
                self.samples,
                config.prompt,
                self.settings.negative_prompt,
                motion=config.motion,
                face_scale=None if pipe.face_network else 0.0,
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

    @property
    def _base(self) -> Path:
        base = self.places["base"]
        assert base is not None
        return base

    def _pipeline(self, model: FantasyTalkingTransformer3DModel, device: torch.device) -> FantasyTalkingPipeline:
        dtype = getattr(torch, self.settings.precision.value)
        parts = load_encoders(self._base, self.places["audio_encoder"], dtype, {}, lambda _: None)
        for part in parts.values():
            if isinstance(part, torch.nn.Module):
                part.to(device)
        pipe = FantasyTalkingPipeline(
            transformer=model,
            scheduler=make_scheduler(self.settings.sampler, self.settings.shift),
            trained_modules=TRAINED,
            window_seconds=self.window_seconds,
            text_length=self.text_length,
            **parts,
        )
        pipe.face_network = self.places["face_encoder"] or find_onnx(self._base)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def _measured(self, frames: Sequence[NDArray[np.uint8]]) -> dict[str, float]:
        """Share of frames with a face and, where there are any, how fast the mouth moves."""
        from fantasytalking.perception.mouth_curve import mouth_curve

        timed = ((number / self.settings.fps, frame) for number, frame in enumerate(frames))
        curve = mouth_curve(timed, self.samples, SAMPLE_RATE)
        moved = {} if np.isnan(curve.movement) else {"mouth_movement": curve.movement}
        return {"face_seen": curve.seen, **moved}


def _commonest(records: list[ClipRecord]) -> ClipRecord:
    """A clip of the size, length and frame rate that most clips have."""
    kinds = Counter((record.width, record.height, record.frames, record.fps) for record in records)
    kind = kinds.most_common(1)[0][0]
    return next(record for record in records if (record.width, record.height, record.frames, record.fps) == kind)


def _half_of(frames: int) -> int:
    """The most that windows of so many frames may overlap: half, in whole latent frames."""
    return max(4, (frames - 1) // 8 * 4)
