"""The diffusers pipeline: a portrait, speech and videos that drive its faces in, a video out.

Axes: F latent frames, h and w latent height and width, T frames, H and W pixels.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, DiffusionPipeline, SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    BaseImageProcessor,
    CLIPVisionModel,
    PreTrainedTokenizerBase,
    UMT5EncoderModel,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

from fantasytalking.attention_regions import BackgroundAttention
from fantasytalking.audio_windows import AUDIO_WINDOW_SECONDS, AudioWindows
from fantasytalking.checkpoints.lora import has_lora
from fantasytalking.common.errors import InputError
from fantasytalking.common.files import atomic_write
from fantasytalking.encoders.expression import copy_expression_encoder
from fantasytalking.media.audio_stream import AudioSampleQueue
from fantasytalking.media.resolution import ResizeMode
from fantasytalking.models.cfg_branches import CfgOrder
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.motion_normalizer import MOTION_NORMALIZER_FILE, MotionNormalizer
from fantasytalking.pipeline.condition_encoder import GenerationControls, encode_conditions, encode_speakers
from fantasytalking.pipeline.control_checks import NEUTRAL_MOTION, check_audio_supported, check_trained_modules
from fantasytalking.pipeline.decoding import check_output_type, decode_frames, decode_output
from fantasytalking.pipeline.denoising import Denoiser
from fantasytalking.pipeline.distillation_limits import check_distillation_limits
from fantasytalking.pipeline.guidance import (
    EXPRESSION_GUIDANCE_SCALE,
    GuidanceConfig,
    GuidanceSchedule,
    guidance_at_step,
)
from fantasytalking.pipeline.inputs import AudioInput, DrivingInput, load_audio_inputs, load_driving_inputs
from fantasytalking.pipeline.loading import (
    EXPRESSION_ENCODER_FOLDER,
    FACE_ENCODER_FOLDER,
    load_pipeline_from_base,
    load_saved_pipeline,
)
from fantasytalking.pipeline.portrait import ImageInput, portrait_from_image
from fantasytalking.pipeline.schedulers import set_timesteps
from fantasytalking.pipeline.sliding_window import latent_window_sizes, plan_windows
from fantasytalking.pipeline.speakers import Speakers
from fantasytalking.pipeline.streaming.streamer import Streamer, StreamPlan, portrait_from_config
from fantasytalking.pipeline.video_conditions import VideoConditions

if TYPE_CHECKING:
    from fantasytalking.pipeline.config import InferConfig


@dataclass
class FantasyTalkingOutput(BaseOutput):
    """A video."""

    frames: Any
    """np: (1, T, H, W, 3) float32 in [0, 1]; pt: (1, T, 3, H, W) of the same; pil: a list of a list of pictures;
    latent: (1, 16, F, h, w) normalised latents, whose frames `iterate_frames` gives one by one."""
    num_frames: int
    """T: the longest sound's length, rounded to the nearest frame, or the shortest driver's."""
    fps: float


class FantasyTalkingPipeline(DiffusionPipeline):
    """A portrait and recordings of speech become a video in which its people talk; videos may drive their faces.

    Args:
        transformer, vae, text_encoder, tokenizer, image_encoder, image_processor, scheduler: Wan's parts, with the
            paper's transformer; the scheduler is FlowMatchEulerDiscrete or UniPC with flow sigmas.
        audio_encoder, audio_processor: wav2vec2 and its feature extractor.
        trained_modules: of audio, face, motion and expression, joined by commas: those that were trained. Asking for
            the control of another is an error, not an effect that fails to come.
        audio_window, window_seconds: rule of the audio windows, as in `AdapterConfig`.
        text_length: tokens to which prompts are padded, as in training (Wan: 512).

    The ArcFace network is no torch module: `face_encoder_path` is the path of its .onnx file, which stands in the
        folder
    face_encoder of a saved pipeline. `expression_encoder_path` is the folder of the encoder that reads drivers, there
    expression_encoder. `motion_normalizer` holds the constants that measured motion was normalised with,
    from motion_normaliser.json, for whoever measures motion in a result.
    """

    model_cpu_offload_seq = "text_encoder->image_encoder->audio_encoder->transformer->vae"
    _callback_tensor_inputs = ("latents",)

    def __init__(
        self,
        transformer: FantasyTalkingTransformer3DModel,
        vae: AutoencoderKLWan,
        text_encoder: UMT5EncoderModel,
        tokenizer: PreTrainedTokenizerBase,
        image_encoder: CLIPVisionModel,
        image_processor: BaseImageProcessor,
        scheduler: SchedulerMixin,
        audio_encoder: Wav2Vec2Model,
        audio_processor: Wav2Vec2FeatureExtractor,
        trained_modules: str = "audio,face,motion",
        audio_window: str = "seconds",
        window_seconds: float = AUDIO_WINDOW_SECONDS,
        text_length: int = 512,
    ) -> None:
        super().__init__()
        check_trained_modules(trained_modules.split(","), audio_window, window_seconds)
        if type(text_length) is not int or not 1 <= text_length <= 4096:
            raise InputError(f"pipeline: text_length is {text_length!r}; it must be 1 to 4096 (Wan: 512)")
        self.register_modules(
            transformer=transformer,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            image_encoder=image_encoder,
            image_processor=image_processor,
            scheduler=scheduler,
            audio_encoder=audio_encoder,
            audio_processor=audio_processor,
        )
        self.register_to_config(
            trained_modules=trained_modules,
            audio_window=audio_window,
            window_seconds=window_seconds,
            text_length=text_length,
        )
        self.input_dtype: torch.dtype | None = None
        """What the transformer is given its inputs in; None: the type of its weights."""
        self.face_encoder_path: Path | None = None
        self.expression_encoder_path: Path | None = None
        self.motion_normalizer: MotionNormalizer | None = None
        self._interrupt = False

    @classmethod
    def from_pretrained(cls, source: str | Path, **kwargs: Any) -> "FantasyTalkingPipeline":
        """A pipeline that `save_pretrained` wrote: see `fantasytalking.pipeline.loading.load_saved_pipeline`."""
        return load_saved_pipeline(cls, source, **kwargs)

    @classmethod
    def from_base(cls, base: str | Path, adapter: str | Path, **kwargs: Any) -> "FantasyTalkingPipeline":
        """A Wan base with an adapter of ours: see `fantasytalking.pipeline.loading.load_pipeline_from_base`."""
        return load_pipeline_from_base(cls, base, adapter, **kwargs)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:
        """Writes the whole pipeline as a diffusers folder, with the encoders and constants that are no torch modules.

        Raises:
            InputError: the transformer holds an unfused LoRA, whose layers a plain transformer folder has no place for.
        """
        if has_lora(self.transformer):
            raise InputError(
                "the transformer holds a LoRA, which has no place in a plain folder; first call "
                "pipe.transformer.fuse_lora() and pipe.transformer.unload_lora()"
            )
        super().save_pretrained(save_directory, **kwargs)
        if self.face_encoder_path is not None:
            with atomic_write(Path(save_directory) / FACE_ENCODER_FOLDER / self.face_encoder_path.name) as temporary:
                shutil.copyfile(self.face_encoder_path, temporary)
        if self.expression_encoder_path is not None:
            copy_expression_encoder(
                Path(self.expression_encoder_path), Path(save_directory) / EXPRESSION_ENCODER_FOLDER
            )
        if self.motion_normalizer is not None:
            self.motion_normalizer.save(Path(save_directory) / MOTION_NORMALIZER_FILE)

    def enable_group_offload(self, *args: Any, exclude_modules: str | list[str] | None = None, **kwargs: Any) -> None:
        """As diffusers', but VAE and wav2vec2 (0.9 GB in all) stay on the device: they are called by parts."""
        excluded = [exclude_modules] if isinstance(exclude_modules, str) else list(exclude_modules or [])
        super().enable_group_offload(*args, exclude_modules=[*excluded, "vae", "audio_encoder"], **kwargs)

    def component_bytes(self) -> dict[str, int]:
        """Memory that the weights of each part need, in bytes."""
        parts = {name: part for name, part in self.components.items() if isinstance(part, torch.nn.Module)}
        return {name: sum(value.nbytes for value in part.parameters()) for name, part in parts.items()}

    @property
    def trained_modules(self) -> list[str]:
        """Of audio, face, motion and expression, those that were trained."""
        return self.config.trained_modules.split(",")

    @property
    def interrupt(self) -> bool:
        """Set `_interrupt` in a callback to leave the remaining steps out."""
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        image: ImageInput,
        audio: AudioInput | Sequence[AudioInput] | None = None,
        prompt: str = "",
        negative_prompt: str = "",
        *,
        driving_video: DrivingInput | Sequence[DrivingInput] = (),
        motion: float = NEUTRAL_MOTION,
        expression_motion: float | None = None,
        body_motion: float | None = None,
        face_scale: float | None = None,
        expression_scale: float = 1.0,
        background: BackgroundAttention = BackgroundAttention.everyone,
        text_guidance_scale: float | GuidanceSchedule = 5.0,
        audio_guidance_scale: float | GuidanceSchedule = 5.0,
        expression_guidance_scale: float | GuidanceSchedule = EXPRESSION_GUIDANCE_SCALE,
        guidance_order: CfgOrder = CfgOrder.text_first,
        color_rescale: float = 0.0,
        batch_branches: bool | None = None,
        num_inference_steps: int | None = None,
        fps: float = 25.0,
        height: int | None = None,
        width: int | None = None,
        resize_mode: ResizeMode = ResizeMode.crop,
        face_index: int | Sequence[int] | None = None,
        window_frames: int = 81,
        overlap_frames: int = 24,
        generator: torch.Generator | None = None,
        output_type: str = "np",
        callback_on_step_end: Callable[["FantasyTalkingPipeline", int, Tensor, dict[str, Tensor]], dict[str, Tensor]]
        | None = None,
    ) -> FantasyTalkingOutput:
        """Makes a video as long as the longest sound, to the nearest frame; without one, as the shortest driver.

        Args:
            image: a path, a PIL picture, RGB uint8 (H, W, 3), or a `Portrait` that is ready.
            audio: a path, or mono float32 samples at 16 kHz; one for each of the first faces. None = nobody speaks.
            driving_video: a video of a face, or a `Driver` that is ready; one for each of the first faces.
            prompt: what to see; "" = nothing is said.
            negative_prompt: what the branches without a prompt are told instead; "" = nothing.
            motion: intensity in [0, 1] of expression and body, 0.5 = neutral.
            expression_motion, body_motion: of one alone; None = `motion`.
            face_scale: weight of the face attention, 1 = as trained; None = 1 where it was trained, else 0.
            expression_scale: weight of the drivers, 1 = as trained.
            background: to whose sounds and drivers what is nobody's face attends.
            text_guidance, audio_guidance, expression_guidance: scales, or schedules of them over the steps (useful: 3
                to 7).
            formula, keep_colour, batch_branches: as in `GuidanceConfig`.
            num_inference_steps: denoising steps; None = 30, or those that a distilled model was made for.
            fps: frames a second.
            height, width: of the video in pixels, multiples of 16; None = 512 (a `Portrait` brings its own).
            resize_mode: how other pictures are brought to that size.
            face_index: which of several faces, from 1 at the left; several in the order of their sounds and drivers.
            window_frames: frames denoised at once, 1 + 4k, as many as the model was trained on.
            overlap_frames: frames that neighbouring windows of a longer video share, a multiple of 4.
            generator: of the noise; one on the CPU gives the same noise on every device.
            output_type: np, pil, pt or latent.
            callback_on_step_end: called with this pipeline, step, timestep and {"latents": ...}; may give others back.

        Raises:
            InputError: anything that cannot be used; names the value, the limit and the cure.
        """
        # 1. Check what can be checked before anything is computed
        text, heard, seen = (
            GuidanceSchedule.from_scale(scale)
            for scale in (text_guidance_scale, audio_guidance_scale, expression_guidance_scale)
        )
        guidance = GuidanceConfig(text, heard, guidance_order, color_rescale, batch_branches, seen)
        guidance.validate_all()
        check_output_type(output_type)
        steps = check_distillation_limits(
            self, num_inference_steps, guidance, negative_prompt, has_driving_video=bool(driving_video)
        )
        intensity = [motion if part is None else part for part in (expression_motion, body_motion)]
        prompts = (prompt, negative_prompt)
        asked = GenerationControls.checked(
            self, prompts, (intensity[0], intensity[1]), face_scale, expression_scale, background
        )
        stride = self.vae.config.scale_factor_temporal
        lengths = latent_window_sizes(window_frames, overlap_frames, stride)
        sounds, drivers = load_audio_inputs(self, audio), load_driving_inputs(self, driving_video, fps)
        number = max(len(sounds), len(drivers), 1)
        people = Speakers(
            portrait_from_image(image, height, width, fit=resize_mode, face_index=face_index, num_faces=number),
            sounds,
            drivers,
        )
        timing = people.timeline(fps, stride)
        windows = plan_windows(timing.num_latent_frames, *lengths)

        # 2. Encode what the video is told
        conditions = encode_conditions(
            self, people, asked, lambda: encode_speakers(self, people, timing), len(windows[0].frame_indices), timing
        )

        # 3. Denoise
        device = self._execution_device
        shape = (
            1,
            self.transformer.config.out_channels,
            timing.num_latent_frames,
            *conditions.image_latents.shape[-2:],
        )
        latents = randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)
        timesteps = set_timesteps(self.scheduler, steps, device)
        self._interrupt = False
        with self.progress_bar(total=len(timesteps) * len(windows)) as bar:
            bar.set_description("denoise")
            denoiser = Denoiser(
                self.transformer, conditions, windows, batch_branches=guidance.batch_branches, on_window_done=bar.update
            )
            for step, timestep in enumerate(timesteps):
                if self.interrupt:
                    break
                plan = guidance_at_step(guidance, step, len(timesteps), conditions.available)
                prediction = denoiser.predict(latents, timestep, plan)
                latents = self.scheduler.step(prediction, timestep, latents, return_dict=False)[0]
                if callback_on_step_end is not None:
                    latents = callback_on_step_end(self, step, timestep, {"latents": latents}).get("latents", latents)

        # 4. Decode
        frames = decode_output(self, latents, timing.num_frames, output_type)
        self.maybe_free_model_hooks()
        return FantasyTalkingOutput(frames=frames, num_frames=timing.num_frames, fps=fps)

    def stream(
        self,
        image: ImageInput,
        audio: AudioSampleQueue,
        config: "InferConfig",
        on_progress: Callable[[float], object] = lambda share: None,
    ) -> Streamer:
        """Iterates over frames while later windows are still being made: see
        `fantasytalking.pipeline.streaming.streamer`.

        Args:
            image: as of `__call__`.
            audio: mono at 16 kHz, read no further than needed; whoever fills it may still be speaking.
            config: the picture and what happens; its part about the model is not read.
            on_progress: told the share of a window's steps that is done.

        Raises:
            InputError: at once, or from the frames when an unusable place of the sound is reached.
        """
        config = replace(
            config,
            num_inference_steps=check_distillation_limits(
                self, config.num_inference_steps, config.guidance, config.negative_prompt
            ),
        )
        plan = StreamPlan.from_config(config, self.vae.config.scale_factor_temporal)
        check_audio_supported(self.trained_modules)
        asked = GenerationControls.checked(
            self, plan.prompts, (config.expression_motion, config.body_motion), config.face_scale
        )
        people = Speakers(portrait_from_config(image, config))

        def encode(hear: Callable[[], AudioWindows]) -> VideoConditions:
            return encode_conditions(self, people, asked, hear, plan.window_length)

        return Streamer(self, plan, audio, encode, on_progress)

    @torch.no_grad()
    def iterate_frames(self, latents: Tensor, num_frames: int) -> Iterator[NDArray[np.uint8]]:
        """The first `num_frames` pictures (H, W, 3) uint8 RGB of (1, 16, F, h, w), decoded as they are asked for."""
        yield from decode_frames(self, latents, num_frames)
