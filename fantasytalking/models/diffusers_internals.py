"""Private names of diffusers and torch that the project uses, each behind a documented function or class.

None of them is covered by a compatibility promise. `tests/models/test_diffusers_internals.py` checks every one, so that
an upgrade which removes a name fails there with its name.

The class attributes that diffusers defines for subclasses to set (`_no_split_modules`, `_repeated_blocks`,
`_default_processor_cls`, `_available_processors`, `_callback_tensor_inputs`) stay in the classes that set them.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from diffusers import (
    ContextParallelConfig,
    DiffusionPipeline,
    FasterCacheConfig,
    PipelineQuantizationConfig,
    PyramidAttentionBroadcastConfig,
    WanTransformer3DModel,
)
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.models._modeling_parallel import ContextParallelInput, ParallelConfig
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import functional as F


class AttnProcessorState:
    """Base of attention processors whose backend and parallelism diffusers sets.

    `ModelMixin.set_attention_backend` and `ModelMixin.enable_parallelism` write to the two private attributes of every
    processor that has them.
    """

    _attention_backend: Any = None
    _parallel_config: Any = None

    @property
    def attention_backend(self) -> Any:
        """Backend selected by `set_attention_backend`; None = diffusers' default."""
        return self._attention_backend


class WanContextParallelism:
    """Context parallelism of a Wan transformer whose timestep is (B,) and which has a `token_index` module.

    A mixin that precedes `WanTransformer3DModel`. Wan 2.2's plan entry for a timestep per token is removed, and the
    output of `token_index` is split like the tokens.
    """

    _parallel_config: Any
    _cp_plan = {name: plan for name, plan in WanTransformer3DModel._cp_plan.items() if name} | {
        "token_index": {0: ContextParallelInput(split_dim=1, expected_dims=2, split_output=True)},
    }

    def _resolve_parallel_config(self, config: Any) -> ParallelConfig:
        """Builds the device mesh on the CPU (gloo) without an accelerator, where diffusers requires one."""
        if torch.accelerator.is_available() or not isinstance(config, ContextParallelConfig):
            return super()._resolve_parallel_config(config)  # type: ignore[misc]
        parallel = ParallelConfig(context_parallel_config=config)
        mesh = config.mesh or init_device_mesh(
            "cpu", mesh_shape=config.mesh_shape, mesh_dim_names=config.mesh_dim_names
        )
        parallel.setup(torch.distributed.get_rank(), torch.distributed.get_world_size(), torch.device("cpu"), mesh=mesh)
        self._parallel_config = parallel
        return parallel


def is_context_parallel(module: Any) -> bool:
    """Whether `enable_parallelism` was applied to a model or to one of its attention processors."""
    return module._parallel_config is not None


def run_checkpointed(model: Any, block: nn.Module, *args: Any) -> Any:
    """Calls `block(*args)` under the model's gradient checkpointing, which recomputes it in the backward pass."""
    return model._gradient_checkpointing_func(block, *args)


def float32_module_names(model: nn.Module | type[nn.Module]) -> tuple[str, ...]:
    """Parts of parameter names whose parameters diffusers keeps in float32."""
    return tuple(getattr(model, "_keep_in_fp32_modules", None) or ())


def register_step_cache_block(block_class: type[nn.Module]) -> None:
    """Registers a block that returns its hidden states alone, so that diffusers' step caches accept it.

    First Block Cache and MagCache look up the signature of a block by its class.
    """
    metadata = TransformerBlockMetadata(return_hidden_states_index=0, return_encoder_hidden_states_index=None)
    TransformerBlockRegistry.register(block_class, metadata)


class StepCachePerContext:
    """Keeps the states of Pyramid Attention Broadcast and FasterCache apart by `cache_context`.

    A mixin that precedes a diffusers model. diffusers keeps one state per hook for these two, so that windows and
    guidance branches that are called in turn would reuse each other's features. Its other step caches keep one state
    per context themselves.
    """

    _cache_config: Any

    @contextmanager
    def cache_context(self, name: str, **kwargs: Any) -> Iterator[None]:
        """As in diffusers: everything inside belongs to the context `name`."""
        if isinstance(self._cache_config, PyramidAttentionBroadcastConfig | FasterCacheConfig):
            for hook in self._hooks_with_one_state():
                _select_state(hook, name)
        with super().cache_context(name, **kwargs):  # type: ignore[misc]
            yield

    def _reset_stateful_cache(self, recurse: bool = True) -> None:
        super()._reset_stateful_cache(recurse)  # type: ignore[misc]
        for hook in self._hooks_with_one_state():
            hook.states_by_context = {}

    def _hooks_with_one_state(self) -> list[Any]:
        registries = [getattr(module, "_diffusers_hook", None) for module in self.modules()]  # type: ignore[attr-defined]
        hooks = [hook for registry in registries if registry is not None for hook in registry.hooks.values()]
        return [hook for hook in hooks if hasattr(hook, "state")]


def _select_state(hook: Any, name: str) -> None:
    """Gives a hook its state of the context `name`, a new one where it has none."""
    if not hasattr(hook, "states_by_context"):
        hook.states_by_context = {}
    states = hook.states_by_context
    if name not in states:
        is_late = any(state.iteration > 1 for state in states.values())
        states[name] = type(hook.state)()
        if is_late:  # a branch that joins later starts with a computed step, not with a reused one
            states[name].iteration = getattr(hook, "block_skip_range", 0)
    hook.state = states[name]


def reset_step_cache(model: Any) -> None:
    """Clears the features that a diffusers step cache holds, without disabling it."""
    model._reset_stateful_cache()


def execution_device(pipeline: DiffusionPipeline) -> torch.device:
    """Device that the pipeline computes on, also while its components are offloaded."""
    return pipeline._execution_device


LORA_DOWNLOAD_ARGUMENTS = (
    *("weight_name", "subfolder", "cache_dir", "force_download", "proxies", "local_files_only", "token", "revision"),
)
"""Arguments that say where a LoRA file is."""


def fetch_lora_file(source: str, where: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Returns the tensors of a LoRA file as stored, and the PEFT configuration that diffusers stores in it.

    Args:
        source: a safetensors file, or a folder or hub id that has one.
        where: some of `LORA_DOWNLOAD_ARGUMENTS`.
    """
    from diffusers.loaders.lora_base import _fetch_state_dict

    arguments = {**dict.fromkeys(LORA_DOWNLOAD_ARGUMENTS), **where}
    agent = {"file_type": "attn_procs_weights", "framework": "pytorch"}
    state, metadata = _fetch_state_dict(source, use_safetensors=True, allow_pickle=False, user_agent=agent, **arguments)
    config = {name.removeprefix("transformer."): value for name, value in (metadata or {}).items()}
    return state, config or None


def component_quantization(config: PipelineQuantizationConfig | None, name: str) -> Any:
    """Returns how a component is quantized, as a configuration of diffusers or transformers; None: not at all."""
    if config is None:
        return None
    return config._resolve_quant_config(is_diffusers=name in ("vae", "transformer", "transformer_2"), module_name=name)


def keep_modules_whole(config: Any, modules: Sequence[str]) -> Any:
    """Returns a quantization configuration of diffusers by which `modules` are not quantized either."""
    config = copy.copy(config)
    for name in ("modules_to_not_convert", "llm_int8_skip_modules"):  # bitsandbytes has a name of its own
        if hasattr(config, name):
            present = getattr(config, name) or []
            setattr(config, name, [*([present] if isinstance(present, str) else present), *modules])
            return config
    raise TypeError(f"{type(config).__name__} has no list of modules that it leaves out")


def supported_device_maps() -> list[str]:
    """Returns the devices that a pipeline can be loaded to."""
    from diffusers.pipelines.pipeline_utils import SUPPORTED_DEVICE_MAP

    return list(dict.fromkeys(name for name in SUPPORTED_DEVICE_MAP if name != "balanced"))


def register_exportable_tuple(kind: type[NamedTuple]) -> None:
    """Registers a NamedTuple under its name, so that programs which `torch.export` makes of a model can be saved."""
    torch.utils._pytree._register_namedtuple(kind, serialized_type_name=f"{kind.__module__}.{kind.__qualname__}")
    torch.serialization.add_safe_globals([kind])  # the example inputs of a program are read with weights_only


def linear_gelu_tanh(hidden_states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """GELU (tanh) of a linear layer in one oneDNN kernel: (..., in) bfloat16 on the CPU -> (..., out).

    GELU is computed before the product is rounded. torch.compile emits this operator; no public function does.
    Processors without bfloat16 kernels (oneDNN needs AVX-512) compute layer and GELU one after the other.
    """
    if not _has_bfloat16_kernels():
        return F.gelu(F.linear(hidden_states, weight, bias), approximate="tanh")
    return torch.ops.mkldnn._linear_pointwise(hidden_states, weight, bias, "gelu", [], "tanh")


@cache
def _has_bfloat16_kernels() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
