"""The diffusers pipeline: a portrait with audio, driving videos or both in, a video out.

Axes: C latent channels, F latent frames, h and w latent height and width, T frames, H and W pixels.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import AutoencoderKLWan, SchedulerMixin
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    BaseImageProcessor,
    CLIPVisionModel,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    SequenceFeatureExtractor,
    UMT5EncoderModel,
)

from fantasytalking.attention_regions import BackgroundAttention
from fantasytalking.audio_windows import AUDIO_WINDOW_SECONDS
from fantasytalking.encoders.audio_loading import audio_encoder_from_components
from fantasytalking.encoders.vae_streaming import StreamingVaeDecoder
from fantasytalking.encoders.wan import ImageEncoder, TextEncoder, VideoAutoencoder
from fantasytalking.face_range import face_ranges_from_dict, face_ranges_to_dict
from fantasytalking.media.audio_stream import AudioSampleQueue
from fantasytalking.media.resolution import ResizeMode
from fantasytalking.models.cfg_branches import CfgOrder
from fantasytalking.models.diffusers_internals import execution_device
from fantasytalking.models.experts import Experts
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.motion_normalizer import MotionNormalizer
from fantasytalking.pipeline.call_state import (
    CALLBACK_TENSORS,
    CallState,
    CallStateProperties,
    StepCallback,
    callback_tensor_names,
    run_callback,
)
from fantasytalking.pipeline.condition_encoder import NUM_ENCODING_STEPS, ConditionEncoder
from fantasytalking.pipeline.decoding import FantasyTalkingOutput, check_output_type, decode_latents, decode_output
from fantasytalking.pipeline.denoising import denoise, noise_latents
from fantasytalking.pipeline.encoder_components import (
    EncoderPaths,
    ExpressionEncoderFolder,
    FaceEncoderFile,
    PipelineMotionNormalizer,
)
from fantasytalking.pipeline.generation_plan import (
    NEUTRAL_MOTION,
    GenerationControls,
    GenerationPlan,
    exclusive_controls,
    plan_generation,
)
from fantasytalking.pipeline.guidance import EXPRESSION_GUIDANCE_SCALE, GuidanceConfig, GuidanceSchedule
from fantasytalking.pipeline.inputs import (
    AudioInput,
    ConditionInput,
    DrivingInput,
    audio_inputs,
    driving_inputs,
    exclusive_embeds,
    load_audio_inputs,
    load_condition_inputs,
    load_driving_inputs,
)
from fantasytalking.pipeline.loading.encoder_checks import check_audio_dim, check_image_encoder
from fantasytalking.pipeline.loading.lora_methods import LoraMethods, check_attention_kwargs
from fantasytalking.pipeline.loading.pretrained import PretrainedPipeline
from fantasytalking.pipeline.model_facts import check_pipeline_config
from fantasytalking.pipeline.portrait import (
    DEFAULT_PORTRAIT_OPTIONS,
    ImageInput,
    PortraitOptions,
    check_portrait_size,
    portrait_from_image,
    report_framing,
)
from fantasytalking.pipeline.prompts import EncodedPrompts, encode_prompts
from fantasytalking.pipeline.sliding_window import plan_windows
from fantasytalking.pipeline.speakers import DrivingExpression, Speakers
from fantasytalking.pipeline.streaming.streamer import Streamer
from fantasytalking.pipeline.streaming.streaming_audio import StreamingAudioEncoder
from fantasytalking.pipeline.timeline import Timeline
from fantasytalking.pipeline.video_conditions import VideoConditions


class FantasyTalkingPipeline(CallStateProperties, EncoderPaths, LoraMethods, PretrainedPipeline):
    """Generates a video of people who speak, from a portrait and recordings; videos may drive their faces.

    Args:
        transformer, vae, text_encoder, tokenizer, image_encoder, image_processor, scheduler: components of Wan, with
            the paper's transformer; the scheduler is FlowMatchEulerDiscrete or UniPC with flow sigmas. A base that
            does not attend to CLIP tokens has neither image_encoder nor image_processor: None. Without text_encoder
            and tokenizer, a pipeline follows its `encoded_prompts`, and prompts that are given as states.
        audio_encoder, audio_processor: wav2vec2, or another of `AUDIO_MODEL_KINDS`, and its feature extractor.
        face_encoder: the ArcFace network; None: the face cannot be attended to.
        expression_encoder: the encoder of driving videos; None: they cannot be read.
        motion_normalizer: constants by which measured motion was normalized in training.
        trained_modules: trained modules among audio, face, motion, expression and registered conditions, joined by
            commas. Controlling a module that was not trained is an error.
        audio_window, window_seconds: rule and length of the audio windows, as in `AdapterConfig`.
        text_length: tokens that prompts are padded to, as in training (Wan: 512).
        face_ranges: sizes and places of faces in the training clips, as in `AdapterConfig`; None: unknown.
        transformer_2, boundary_ratio: low-noise expert of a base with two, and the noise level from which on
            `transformer` predicts (Wan2.2-I2V-A14B: 0.9); None for any other base.
    """

    model_cpu_offload_seq = "text_encoder->image_encoder->audio_encoder->transformer->transformer_2->vae"
    _callback_tensor_inputs = CALLBACK_TENSORS
    _optional_components: ClassVar[list[str]] = [
        *("transformer_2", "image_encoder", "image_processor"),
        *("face_encoder", "expression_encoder", "motion_normalizer"),
    ]

    def __init__(
        self,
        transformer: FantasyTalkingTransformer3DModel,
        vae: AutoencoderKLWan,
        text_encoder: UMT5EncoderModel | None,
        tokenizer: PreTrainedTokenizerBase | None,
        image_encoder: CLIPVisionModel | None,
        image_processor: BaseImageProcessor | None,
        scheduler: SchedulerMixin,
        audio_encoder: PreTrainedModel,
        audio_processor: SequenceFeatureExtractor,
        face_encoder: FaceEncoderFile | None = None,
        expression_encoder: ExpressionEncoderFolder | None = None,
        motion_normalizer: MotionNormalizer | None = None,
        trained_modules: str = "audio,face,motion",
        audio_window: str = "seconds",
        window_seconds: float = AUDIO_WINDOW_SECONDS,
        text_length: int = 512,
        face_ranges: dict[str, Any] | None = None,
        transformer_2: FantasyTalkingTransformer3DModel | None = None,
        boundary_ratio: float | None = None,
    ) -> None:
        super().__init__()
        check_pipeline_config(trained_modules, audio_window, window_seconds, text_length)
        Experts(transformer, transformer_2, boundary_ratio)  # checks that they fit together
        self.register_modules(
            transformer=transformer,
            transformer_2=transformer_2,
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            image_encoder=image_encoder,
            image_processor=image_processor,
            scheduler=scheduler,
            audio_encoder=audio_encoder,
            audio_processor=audio_processor,
            face_encoder=face_encoder,
            expression_encoder=expression_encoder,
            motion_normalizer=PipelineMotionNormalizer.from_constants(motion_normalizer),
        )
        self.register_to_config(
            trained_modules=trained_modules,
            audio_window=audio_window,
            window_seconds=window_seconds,
            text_length=text_length,
            boundary_ratio=boundary_ratio,
            face_ranges=face_ranges_to_dict(face_ranges_from_dict(face_ranges, "pipeline")),
        )
        self.input_dtype: torch.dtype | None = None
        """Type of the transformer's inputs; None: that of its weights."""
        self.encoded_prompts = EncodedPrompts({})
        """Prompts that are followed where there is no text encoder."""
        self._call_state = CallState()

    @torch.no_grad()
    def __call__(
        self,
        image: ImageInput,
        audio: AudioInput | Sequence[AudioInput] | None = None,
        prompt: str | None = "",
        negative_prompt: str | None = "",
        *,
        controls: GenerationControls | None = None,
        driving_video: DrivingInput | Sequence[DrivingInput] = (),
        extra_conditions: Mapping[str, ConditionInput] = MappingProxyType({}),
        motion: float = NEUTRAL_MOTION,
        expression_motion: float | None = None,
        body_motion: float | None = None,
        face_scale: float | None = None,
        expression_scale: float = 1.0,
        condition_scales: Mapping[str, float] = MappingProxyType({}),
        background: BackgroundAttention = BackgroundAttention.everyone,
        text_guidance_scale: float | GuidanceSchedule = 5.0,
        text_guidance_scale_2: float | None = None,
        audio_guidance_scale: float | GuidanceSchedule = 5.0,
        expression_guidance_scale: float | GuidanceSchedule = EXPRESSION_GUIDANCE_SCALE,
        condition_guidance_scales: Mapping[str, float | GuidanceSchedule] = MappingProxyType({}),
        guidance_order: CfgOrder = CfgOrder.text_first,
        color_rescale: float = 0.0,
        batch_branches: bool | None = None,
        num_inference_steps: int | None = None,
        fps: float = 25.0,
        height: int | None = None,
        width: int | None = None,
        resize_mode: ResizeMode = ResizeMode.fit,
        face_index: int | Sequence[int] | None = None,
        window_frames: int = 81,
        overlap_frames: int = 24,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> FantasyTalkingOutput:
        """Generates a video as long as the longest audio or, without audio, as the shortest driving video.

        Args:
            image: a path, a PIL image, RGB uint8 (H, W, 3), or a `Portrait`.
            audio: a path, or mono float32 samples at 16 kHz; one per face from the first face on. None: nobody speaks.
            driving_video: a video of a face, or a `DrivingExpression`; one per face from the first face on.
            extra_conditions: values of registered conditions by name, as files, arrays or tensors.
            controls: all controls of the generation, in place of the keyword arguments of the same names.
            prompt, negative_prompt, face_scale, expression_scale, condition_scales, background, num_inference_steps,
                fps, window_frames, overlap_frames: as in `GenerationControls`.
            motion: intensity in [0, 1] of expression and body; 0.5 is neutral.
            expression_motion, body_motion: intensity of one of them; None: `motion`.
            text_guidance_scale, audio_guidance_scale, expression_guidance_scale: constant scales, or schedules over
                the steps (useful: 3 to 7).
            text_guidance_scale_2: constant scale of the low-noise expert; None: `text_guidance_scale`.
            condition_guidance_scales: the same by registered condition; 1 for those that are missing.
            guidance_order, color_rescale, batch_branches: as in `GuidanceConfig`.
            height, width: of the video in pixels, in whole tokens (multiples of 16 for Wan 2.1, of 32 for Wan 2.2
                TI2V-5B); None: 512, or the size of a `Portrait`.
            resize_mode: how images are resized to that size; fit brings the faces to what the model was trained on.
            face_index: selected faces, from 1 at the left; several in the order of their audio and driving videos.
            generator: of the noise; a CPU generator gives the same noise on every device.
            latents: (1, C, F, h, w) noise in place of that of `generator`.
            prompt_embeds, negative_prompt_embeds: in place of the prompts, as `encode_prompt` returns them.
            output_type: np, pil, pt or latent.
            return_dict: False: the frames are returned as the only item of a tuple.
            attention_kwargs: `scale` of the transformer's LoRA layers.
            callback_on_step_end: called with pipeline, step, timestep and a dictionary of tensors; may return others.
            callback_on_step_end_tensor_inputs: names of these tensors, of `pipe._callback_tensor_inputs`.

        Raises:
            InputError: an input or a control cannot be used; names the value, the limit and the cure.
        """
        scales = (text_guidance_scale, audio_guidance_scale, expression_guidance_scale)
        text, speech, expression = map(GuidanceSchedule.from_scale, scales)
        registered = {name: GuidanceSchedule.from_scale(scale) for name, scale in condition_guidance_scales.items()}
        guidance = GuidanceConfig(
            *(text, speech, guidance_order, color_rescale, batch_branches, expression, text_guidance_scale_2),
            registered,
        )
        keywords = GenerationControls(
            "" if prompt is None else prompt,
            "" if negative_prompt is None else negative_prompt,
            motion if expression_motion is None else expression_motion,
            motion if body_motion is None else body_motion,
            face_scale,
            expression_scale,
            dict(condition_scales),
            background,
            guidance,
            num_inference_steps,
            fps,
            window_frames,
            overlap_frames,
        )

        # 1. Check what can be checked before anything is computed
        check_output_type(output_type)
        for transformer in self.experts:
            check_attention_kwargs(transformer, attention_kwargs)
        names = callback_tensor_names(callback_on_step_end, callback_on_step_end_tensor_inputs)
        recordings, driving = audio_inputs(audio), driving_inputs(driving_video)
        controls = exclusive_controls(controls, keywords)
        plan = self._plan(
            controls, has_audio=bool(recordings), driving=driving, extra_conditions=tuple(extra_conditions)
        )
        embeds = exclusive_embeds(plan.prompt, prompt_embeds, plan.negative_prompt, negative_prompt_embeds)
        values = load_condition_inputs(extra_conditions, self.facts.conditions)
        waveforms = load_audio_inputs(recordings)
        expressions = load_driving_inputs(driving, self.expression_encoder_path, plan.fps)
        num_faces = max(len(waveforms), len(expressions), 1)
        portrait = portrait_from_image(image, height, width, resize_mode, face_index, num_faces, self.facts.face_ranges)
        check_portrait_size(portrait, plan.geometry)
        speakers = Speakers(portrait, waveforms, expressions)
        timeline = speakers.timeline(plan.fps, plan.geometry.temporal_stride)
        windows = plan_windows(timeline.num_latent_frames, plan.window_length, plan.window_overlap)
        height, width = (size // self.vae.config.scale_factor_spatial for size in portrait.pixels.shape[:2])
        shape = (1, self.transformer.config.out_channels, timeline.num_latent_frames, height, width)
        noise = noise_latents(shape, latents, generator, execution_device(self))
        self._call_state.attention_kwargs = attention_kwargs

        on_step = partial(run_callback, self, callback_on_step_end, names)

        # 2. Encode, denoise, decode
        conditions = self._encode(speakers, plan, len(windows[0].frame_indices), timeline, *embeds, registered=values)
        with self.progress_bar(total=plan.num_inference_steps * len(windows)) as bar:
            bar.set_description("denoise")
            denoised = denoise(
                self.experts,
                self.scheduler,
                conditions,
                plan,
                windows,
                noise,
                self._call_state,
                bar.update,
                on_step,
            )
        frames = decode_output(
            VideoAutoencoder(self.vae), denoised, timeline.num_frames, output_type, self.progress_bar
        )
        self.maybe_free_model_hooks()
        output = FantasyTalkingOutput(frames=frames, num_frames=timeline.num_frames, fps=plan.fps)
        return output if return_dict else (frames,)  # type: ignore[return-value]  # as in diffusers

    @torch.no_grad()
    def encode_prompt(
        self, prompt: str = "", negative_prompt: str | None = "", device: torch.device | str | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns the states (1, T, D) float32 of prompt and negative prompt, for `__call__`.

        Args:
            device: of the states; None: the pipeline's.
        """
        device = execution_device(self) if device is None else device
        sizes = (self.config.text_length, self.transformer.config.text_dim)
        prompt_embeds, negative_prompt_embeds = encode_prompts(
            self._prompt_encoder, prompt, negative_prompt or "", sizes, device
        )
        return prompt_embeds, negative_prompt_embeds

    @torch.no_grad()
    def stream(
        self,
        image: ImageInput,
        audio: AudioSampleQueue,
        controls: GenerationControls | None = None,
        *,
        extra_conditions: Mapping[str, ConditionInput] = MappingProxyType({}),
        portrait_options: PortraitOptions = DEFAULT_PORTRAIT_OPTIONS,
        generator: torch.Generator | None = None,
        on_progress: Callable[[float], object] = lambda fraction: None,
    ) -> Streamer:
        """Returns an iterator over frames that yields while later windows are still being generated.

        Args:
            image, extra_conditions, generator: as in `__call__`.
            audio: mono at 16 kHz, read no further than needed; it may still be recorded.
            portrait_options: how the image is resized; not used with a `Portrait`.
            on_progress: called with the fraction of a window's steps that is done.

        Raises:
            InputError: at once, or from the iterator where unusable audio is reached.
        """
        controls = controls or GenerationControls()
        plan = self._plan(controls, has_audio=True, driving=(), extra_conditions=tuple(extra_conditions))
        values = load_condition_inputs(extra_conditions, self.facts.conditions)
        options = replace(portrait_options, face_ranges=portrait_options.face_ranges or self.facts.face_ranges)
        portrait = report_framing(options.prepare(image), image, options)
        check_portrait_size(portrait, plan.geometry)
        speakers = Speakers(portrait)
        audio_encoder = StreamingAudioEncoder(
            audio_encoder_from_components(self.audio_encoder, self.audio_processor),
            audio,
            plan.fps,
            plan.geometry.temporal_stride,
            self.config.audio_window,
            self.config.window_seconds,
        )
        return Streamer(
            self.experts,
            self.scheduler,
            StreamingVaeDecoder(self.vae),
            audio_encoder,
            self._encode(speakers, plan, plan.window_length, None, registered=values),
            plan,
            state=self._call_state,
            generator=generator,
            on_progress=on_progress,
        )

    @torch.no_grad()
    def iterate_frames(self, latents: Tensor, num_frames: int) -> Iterator[NDArray[np.uint8]]:
        """Yields the first `num_frames` frames (H, W, 3) uint8 RGB of latents (1, C, F, h, w), decoded on demand."""
        yield from decode_latents(VideoAutoencoder(self.vae), latents, num_frames, self.progress_bar)

    @property
    def _prompt_encoder(self) -> TextEncoder | EncodedPrompts:
        if self.text_encoder is None:
            return self.encoded_prompts
        return TextEncoder(self.text_encoder, self.tokenizer, self.config.text_length)

    def _plan(
        self,
        controls: GenerationControls,
        *,
        has_audio: bool,
        driving: Sequence[DrivingInput],
        extra_conditions: Sequence[str],
    ) -> GenerationPlan:
        check_audio_dim(self.audio_encoder.config.hidden_size, self.transformer.config.audio_dim)
        check_image_encoder(self.image_encoder, self.transformer.config.image_dim)
        return plan_generation(
            self.facts,
            controls,
            has_audio=has_audio,
            has_driving_video=bool(driving),
            needs_expression_encoder=not all(isinstance(one, DrivingExpression) for one in driving),
            extra_conditions=extra_conditions,
            scheduler=self.scheduler,
        )

    def _encode(
        self,
        speakers: Speakers,
        plan: GenerationPlan,
        window_length: int,
        timeline: Timeline | None,
        *prompt_embeds: Tensor | None,
        registered: Mapping[str, Tensor],
    ) -> VideoConditions:
        encoder = ConditionEncoder(
            self._prompt_encoder,
            None if self.image_encoder is None else ImageEncoder(self.image_encoder, self.image_processor),
            VideoAutoencoder(self.vae),
            audio_encoder_from_components(self.audio_encoder, self.audio_processor),
            self.face_encoder_path,
            self.transformer.config,
            self.config.text_length,
            self.config.audio_window,
            self.config.window_seconds,
            execution_device(self),
            self.input_dtype or self.transformer.dtype,
        )
        with self.progress_bar(total=NUM_ENCODING_STEPS) as bar:
            bar.set_description("encode")
            return encoder.encode(
                speakers, plan, window_length, timeline, bar.update, *prompt_embeds, registered=registered
            )
