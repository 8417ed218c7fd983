"""The paper's model: Wan's image-to-video transformer with audio, face, motion and optional expression conditions.

Axes: B batch, F latent frames, Z latent channels, H and W latent height and width, S video tokens = F (H/2) (W/2).
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from diffusers import FasterCacheConfig, ModelMixin, TaylorSeerCacheConfig, WanTransformer3DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.modeling_outputs import Transformer2DModelOutput
from diffusers.utils import apply_lora_scale
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.condition_registry import WIDTH, registered_condition
from fantasytalking.condition_specs import Injection
from fantasytalking.conditions import Conditions, ExpressionCondition, RegisteredValue
from fantasytalking.models.attention_windows import LocalTokens, build_windowed_attention
from fantasytalking.models.audio_projector import AudioProjector
from fantasytalking.models.cross_attention import BlockConditions, KVCapture, PortraitCrossAttention
from fantasytalking.models.diffusers_internals import (
    StepCachePerContext,
    WanContextParallelism,
    is_context_parallel,
    register_exportable_tuple,
    run_checkpointed,
)
from fantasytalking.models.expression_config import ExpressionModuleConfig
from fantasytalking.models.expression_projector import ExpressionProjector
from fantasytalking.models.face_resampler import FaceResampler
from fantasytalking.models.full_changes import FullChanges
from fantasytalking.models.guarded_loading import GuardedLoading
from fantasytalking.models.guidance_embedder import DistillationSpec, GuidanceEmbedder
from fantasytalking.models.image_conditioning import ImageConditioning
from fantasytalking.models.input_checks import check_inputs, prediction_batch_size
from fantasytalking.models.kv_cache import ConditionKVCache
from fantasytalking.models.motion_embedder import MotionEmbedder
from fantasytalking.models.portrait_block import PortraitBlock
from fantasytalking.models.portrait_config import PortraitConfig
from fantasytalking.models.registered_module import RegisteredModule

__all__ = ["FantasyTalkingTransformer3DModel", "ModelMixin", "TokenIndex"]
# diffusers recognizes a component by its base class, which it looks up as ModelMixin in the module that defines it.

for _conditions in (Conditions, ExpressionCondition, RegisteredValue):
    register_exportable_tuple(_conditions)


class TokenIndex(nn.Module):
    """Position of every video token in the clip, (1, S).

    A module, so that context parallelism splits its output like the tokens. The part that a rank receives identifies
    its tokens and thereby its audio windows.
    """

    def forward(self, num_tokens: int) -> Tensor:
        """Returns 0 .. num_tokens - 1 as (1, S), on the CPU, so that reading them waits for no device."""
        return torch.arange(num_tokens)[None]


class FantasyTalkingTransformer3DModel(
    GuardedLoading, FullChanges, StepCachePerContext, WanContextParallelism, WanTransformer3DModel
):
    """WanTransformer3DModel with attention to audio and face tokens and with motion in its timestep embedding.

    A new model predicts exactly what its base predicts. Base parameters keep diffusers' names; the paper's are
    `audio_projector`, `face_resampler`, `motion_embedder` and `blocks.N.attn2.{audio,face}_{k,v}_proj`. With the
    section `expression`, there are also `expression_projector` and `blocks.N.attn2.expression_{k,v}_proj`
    (FantasyPortrait).

    Args:
        patch_size ... pos_embed_seq_len: as in diffusers' WanTransformer3DModel.
        audio_dim ... conditions: as in `PortraitConfig`, which defines their defaults.
        distillation: limits of a distilled model (`DistillationSpec.to_dict`); None = not distilled.
    """

    _no_split_modules = ("PortraitBlock",)
    _repeated_blocks = ("PortraitBlock",)

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 36,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        cross_attn_norm: bool = True,
        qk_norm: str = "rms_norm_across_heads",
        eps: float = 1e-6,
        image_dim: int | None = 1280,
        added_kv_proj_dim: int | None = 5120,
        rope_max_seq_len: int = 1024,
        pos_embed_seq_len: int | None = None,
        audio_dim: int = PortraitConfig.audio_dim,
        audio_token_dim: int = PortraitConfig.audio_token_dim,
        audio_positions: int = PortraitConfig.audio_positions,
        audio_scale: float = PortraitConfig.audio_scale,
        face_dim: int = PortraitConfig.face_dim,
        face_tokens: int = PortraitConfig.face_tokens,
        face_token_dim: int = PortraitConfig.face_token_dim,
        face_width: int = PortraitConfig.face_width,
        face_depth: int = PortraitConfig.face_depth,
        face_heads: int = PortraitConfig.face_heads,
        face_scale: float = PortraitConfig.face_scale,
        motion_width: int = PortraitConfig.motion_width,
        expression: dict[str, Any] | None = PortraitConfig.expression,
        conditions: dict[str, dict[str, int]] | None = PortraitConfig.conditions,
        distillation: dict[str, Any] | None = None,
    ) -> None:
        # Wan's modules without its blocks, which ours replace; the config keeps the true number of layers.
        super().__init__(
            patch_size=patch_size,
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            in_channels=in_channels,
            out_channels=out_channels,
            text_dim=text_dim,
            freq_dim=freq_dim,
            ffn_dim=ffn_dim,
            num_layers=0,
            cross_attn_norm=cross_attn_norm,
            qk_norm=qk_norm,
            eps=eps,
            image_dim=image_dim,
            added_kv_proj_dim=added_kv_proj_dim,
            rope_max_seq_len=rope_max_seq_len,
            pos_embed_seq_len=pos_embed_seq_len,
        )
        self.register_to_config(num_layers=num_layers)
        dim = num_attention_heads * attention_head_dim
        self.blocks = nn.ModuleList(
            PortraitBlock(
                dim=dim,
                ffn_dim=ffn_dim,
                num_heads=num_attention_heads,
                qk_norm=qk_norm,
                cross_attn_norm=cross_attn_norm,
                eps=eps,
                added_kv_proj_dim=added_kv_proj_dim,
                token_dims={"audio": audio_token_dim, "face": face_token_dim},
            )
            for _ in range(num_layers)
        )
        self.token_index = TokenIndex()
        self.audio_projector = AudioProjector(audio_dim, audio_token_dim, audio_positions)
        self.face_resampler = FaceResampler(
            face_dim=face_dim,
            token_dim=face_token_dim,
            num_tokens=face_tokens,
            width=face_width,
            depth=face_depth,
            num_heads=face_heads,
        )
        self.motion_embedder = MotionEmbedder(motion_width, dim)
        self.distillation: DistillationSpec | None = None
        self.guidance_embedder: GuidanceEmbedder | None = None
        if distillation is not None:
            self.add_guidance_embedder(DistillationSpec.from_dict(distillation, "transformer"))
        self.expression_projector: ExpressionProjector | None = None
        self.expression_config: ExpressionModuleConfig | None = None
        if expression is not None:
            self.add_expression_modules(ExpressionModuleConfig.from_dict(expression, "transformer"))
        for name, sizes in (conditions or {}).items():
            self.add_condition(name, sizes)

    @property
    def image_conditioning(self) -> ImageConditioning:
        """How the base receives the first frame."""
        return ImageConditioning.from_channels(self.config.in_channels, self.config.out_channels)

    def add_guidance_embedder(self, distillation: DistillationSpec) -> None:
        """Adds a new guidance embedder, whose output is zero until it is trained or loaded."""
        self.register_to_config(distillation=distillation.to_dict())
        self.distillation = distillation
        like = self.motion_embedder.output.weight
        self.guidance_embedder = GuidanceEmbedder(distillation, len(like)).to(like.device, like.dtype)

    def add_expression_modules(self, config: ExpressionModuleConfig) -> None:
        """Adds a new expression condition, whose output is zero until it is trained or loaded."""
        self._register_expression(config)
        like = self.motion_embedder.output.weight
        self.expression_projector = ExpressionProjector(config).to(like.device, like.dtype).train(self.training)
        for module in self.modules():
            if isinstance(module, PortraitCrossAttention):
                module.add_conditions({"expression": config.token_dim})

    def configure_expression(self, config: ExpressionModuleConfig) -> None:
        """Sets scale and padding of the expression condition to those of `config`, which has the same sizes."""
        assert self.expression_config is not None and self.expression_config.has_same_sizes(config)
        self._register_expression(config)

    def add_condition(self, name: str, sizes: Mapping[str, int]) -> None:
        """Adds a new module of a registered condition, whose output is zero until it is trained or loaded.

        Raises:
            InputError: no condition of this name is registered, or a size is unknown or out of range.
        """
        condition = registered_condition(name, "transformer")
        resolved = condition.resolve_sizes(sizes, "transformer")
        self.register_to_config(conditions={**(self.config.conditions or {}), name: resolved})
        like = self.motion_embedder.output.weight
        added = RegisteredModule(condition, resolved, len(like)).to(like.device, like.dtype).train(self.training)
        self.add_module(str(condition.spec.module), added)
        if condition.spec.is_decoupled:
            for module in self.modules():
                if isinstance(module, PortraitCrossAttention):
                    module.add_conditions({name: resolved[WIDTH]})

    def _register_expression(self, config: ExpressionModuleConfig) -> None:
        self.register_to_config(expression=config.to_dict())
        self.expression_config = config

    @apply_lora_scale("attention_kwargs")
    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        conditions: Conditions,
        cache: ConditionKVCache | None = None,
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
    ) -> Transformer2DModelOutput | tuple[Tensor]:
        """Predicts the flow-matching velocity (noise - sample).

        Args:
            hidden_states: (B, Z, F, H, W) noisy latents.
            timestep: (B,) in [0, 1000], or (B, S) with one per token.
            conditions: of the same batch; a condition of batch 1 is used for every sample. With latents of batch 1,
                `prompt_embeds` and `condition_scale` may have B samples: guidance branches, which differ from the
                first cross-attention on, so that everything before it is computed once.
            cache: for inference only; the same object at every step of a video, so that projections of constant
                conditions are computed once.
            return_dict: whether to return an output object instead of a tuple.
            attention_kwargs: `scale` of LoRA layers, as in diffusers.

        Returns:
            `sample` (B, Z, F, H, W); where the base replaces latent frame 0, the prediction there has no meaning.

        Raises:
            InputError: a condition has an unsupported shape or dtype.
        """
        assert cache is None or not torch.is_grad_enabled(), (
            "a ConditionKVCache carries no gradient: use torch.no_grad()"
        )
        check_inputs(hidden_states, timestep, conditions, self.config)

        # 1. Embed: patches, positions, timestep with motion, condition tokens
        batch = prediction_batch_size(hidden_states.shape[0], conditions)
        hidden_states = self.image_conditioning.model_input(hidden_states, conditions.image_latents)
        rotary_emb = self.rope(hidden_states)
        hidden_states = self.patch_embedding(hidden_states)  # (B, dim, F, H/2, W/2)
        grid = hidden_states.shape[2:]
        hidden_states = hidden_states.flatten(2).transpose(1, 2).contiguous()  # (B, S, dim)
        local = self._local_tokens(hidden_states.shape[1])
        if timestep.ndim == 1:
            timestep = self.image_conditioning.model_timestep(timestep, local.total, grid[0])
        temb, timestep_proj = self._embed_timestep(timestep, conditions, local)
        block_conditions = self._block_conditions(conditions, cache, local, grid[0], batch)

        # 2. Blocks
        for index, block in enumerate(self.blocks):
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                hidden_states = run_checkpointed(
                    self, block, hidden_states, block_conditions, timestep_proj, rotary_emb
                )
            elif cache is None:
                hidden_states = block(
                    hidden_states,
                    encoder_hidden_states=block_conditions,
                    temb=timestep_proj,
                    rotary_emb=rotary_emb,
                )
            else:
                tokens, capture = block_conditions.tokens, KVCapture()
                hidden_states = block(
                    hidden_states,
                    encoder_hidden_states=block_conditions._replace(
                        keys_values=cache.get_keys_values(index, tokens), capture=capture
                    ),
                    temb=timestep_proj,
                    rotary_emb=rotary_emb,
                )
                if capture.value is not None:  # None if a step cache skipped the block
                    cache.store(index, tokens, capture.value)

        # 3. Head: norm, projection, patches back to latents
        temb = temb if temb.ndim == 3 else temb[:, None]  # (B, 1 or S, dim)
        table = self.scale_shift_table.to(temb.device) + temb.unsqueeze(-2)  # (B, 1 or S, 2, dim)
        shift, scale = (part.to(hidden_states.device) for part in table.unbind(-2))
        hidden_states = (self.norm_out(hidden_states.float()) * (1 + scale) + shift).type_as(hidden_states)
        hidden_states = self.proj_out(hidden_states)
        patch_t, patch_h, patch_w = self.config.patch_size
        sample = rearrange(
            hidden_states,
            "b (f h w) (pt ph pw c) -> b c (f pt) (h ph) (w pw)",
            f=grid[0],
            h=grid[1],
            w=grid[2],
            pt=patch_t,
            ph=patch_h,
            pw=patch_w,
        )
        return Transformer2DModelOutput(sample=sample) if return_dict else (sample,)

    def enable_cache(self, config: Any) -> None:
        """Enables a step cache of diffusers. Use one `cache_context` per guidance branch.

        TaylorSeer's default patterns match modules named `attn`, which Wan does not have. Without other patterns, it
        predicts the two attentions and the feed-forward of every block.

        Raises:
            InputError: FasterCache would approximate the unconditional half of a batch.
        """
        if isinstance(config, FasterCacheConfig) and not config.is_guidance_distilled:
            raise InputError(
                "FasterCacheConfig.is_guidance_distilled is False, which takes each batch for a pair of unconditional "
                "and conditional samples, but guidance has up to four branches here; set it to True",
                code=ErrorCode.unsupported,
                field="is_guidance_distilled",
                value=False,
            )
        if isinstance(config, TaylorSeerCacheConfig) and not (config.cache_identifiers or config.use_lite_mode):
            config = dataclasses.replace(config, cache_identifiers=[r"blocks\.\d+\.(attn1|attn2|ffn)"])
        super().enable_cache(config)

    def _embed_timestep(self, timestep: Tensor, conditions: Conditions, local: LocalTokens) -> tuple[Tensor, Tensor]:
        """(B,) -> embedding (B, dim) with motion and guidance added, and its six modulations (B, 6, dim).

        Of a timestep per token (B, S), those of this rank: (B, n, dim) and (B, n, 6, dim), n tokens.
        """
        embedder, is_per_token = self.condition_embedder, timestep.ndim == 2
        dtype = embedder.time_embedder.linear_1.weight.dtype
        if is_per_token:
            timestep = timestep[:, local.start : local.start + local.length]
        projected = embedder.timesteps_proj(timestep.flatten()).unflatten(0, timestep.shape)
        if dtype != torch.int8:
            projected = projected.to(dtype)
        temb = embedder.time_embedder(projected).type_as(conditions.prompt_embeds)
        added = [self.motion_embedder(conditions.motion_intensity)]
        if self.guidance_embedder is not None and conditions.guidance is not None:
            added.append(self.guidance_embedder(conditions.guidance))
        for module, (value, scale) in self._registered(conditions, Injection.timestep):
            added.append(scale[:, None] * module(value))
        for vector in added:  # (B, dim)
            temb = temb + (vector[:, None] if is_per_token else vector).type_as(temb)
        return temb, embedder.time_proj(embedder.act_fn(temb)).unflatten(-1, (6, -1))

    def _block_conditions(
        self, conditions: Conditions, cache: ConditionKVCache | None, local: LocalTokens, frames: int, batch: int
    ) -> BlockConditions:
        """Projects the conditions to tokens, from the cache if given, with their windows, masks and weights."""
        num_windows = conditions.audio_embeds.shape[1]
        span = local.window_span(num_windows)
        audio_mask = conditions.audio_mask[:, span.window_slice]
        expression, frame_span = conditions.expression, local.window_span(frames)

        def project_audio(audio: Tensor) -> Tensor:
            # Padding may contain NaN, which a mask in the softmax does not exclude.
            audio = audio[:, span.window_slice].masked_fill(~audio_mask[..., None], 0.0)
            return self.audio_projector(audio, frame_level=num_windows > 1)

        def project_expression(features: Tensor) -> Tensor:
            assert self.expression_projector is not None and expression is not None
            return self.expression_projector.window_tokens(features, expression.present)[:, frame_span.window_slice]

        embedder = self.condition_embedder
        image_length = 0 if conditions.image_embeds is None else conditions.image_embeds.shape[1]
        total_length = image_length + conditions.prompt_embeds.shape[1]
        projections: dict[str, tuple[Tensor | None, Callable[[Tensor], Tensor]]] = {
            "text": (
                conditions.prompt_embeds,
                lambda text: _as_slice(embedder.text_embedder(text), image_length, total_length),
            ),
            "image": (
                conditions.image_embeds,
                lambda image: _as_slice(embedder.image_embedder(image), 0, total_length),
            ),
            "audio": (conditions.audio_embeds, project_audio),
            "face": (conditions.face_embeds, self.face_resampler),
            "expression": (None if expression is None else expression.features, project_expression),
        }
        registered = list(self._registered(conditions, Injection.cross_attention))
        projections |= {module.condition.name: (value, module) for module, (value, _) in registered}
        tokens = {
            name: project(source) if cache is None else cache.get_tokens(name, source, project)
            for name, (source, project) in projections.items()
            if source is not None
        }
        weights = conditions.condition_scale.new_tensor([self.config.audio_scale, self.config.face_scale])
        audio_scale, face_scale = (conditions.condition_scale * weights).expand(batch, -1).unbind(1)
        scales = {"audio": audio_scale, "face": face_scale}
        windows = {"audio": build_windowed_attention(local, span, audio_mask, conditions.speaker_regions)}
        if expression is not None:
            assert self.expression_projector is not None and self.expression_config is not None
            mask = self.expression_projector.window_mask(expression.present, self.expression_config.padding)
            windows["expression"] = build_windowed_attention(
                local, frame_span, mask[:, frame_span.window_slice].flatten(2), expression.regions
            )
            scales["expression"] = (expression.scale * self.expression_config.scale).expand(batch)
        scales |= {module.condition.name: scale.expand(batch) for module, (_, scale) in registered}
        return BlockConditions(tokens, windows, scales, keys_values={})

    def _registered(
        self, conditions: Conditions, injection: Injection
    ) -> Iterator[tuple[RegisteredModule, RegisteredValue]]:
        """Yields module and value of the registered conditions of one injection."""
        for name, value in (conditions.registered or {}).items():
            module = self.get_submodule(f"{name}_condition")
            assert isinstance(module, RegisteredModule)
            if module.condition.injection is injection:
                yield module, value

    def _local_tokens(self, num_tokens: int) -> LocalTokens:
        """Returns the range of video tokens on this rank: all of them without context parallelism."""
        if not is_context_parallel(self):
            return LocalTokens(start=0, length=num_tokens, total=num_tokens)
        indices = self.token_index(num_tokens)
        return LocalTokens(start=int(indices[0, 0]), length=indices.shape[1], total=num_tokens)


def _as_slice(tokens: Tensor, start: int, total: int) -> Tensor:
    """Copies (B, N, dim) into a slice, from `start`, of a sequence of `total` tokens and returns the slice.

    Wan's blocks read image and text as slices of one sequence. Half-precision products of a slice and of a separate
    tensor round differently, so the layout is kept and with it bitwise equality with the base.
    """
    length = tokens.shape[1]
    return F.pad(tokens, (0, 0, start, total - start - length))[:, start : start + length]
