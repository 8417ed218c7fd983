"""Divides each call of the transformer between several processes (torchrun) that generate one video together.

The first process coordinates: it reads, encodes, decides, decodes and writes, and nothing of that is done twice. Before
each call of its transformer it sends the inputs to the workers, which make the same call; context parallelism
(diffusers, Ulysses: arXiv 2309.14509) divides its tokens. Inputs that are constant over a video are sent once. Code
that drives a transformer therefore needs no change for several processes. Only step caches do not work, since each
process would decide by its own tokens which blocks to skip.
"""

import math
import os
from collections.abc import Callable, Collection
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from diffusers import ContextParallelConfig
from torch import Tensor, distributed

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.condition_specs import PER_WINDOW_TENSORS
from fantasytalking.conditions import flatten_conditions, unflatten_conditions
from fantasytalking.inference.config import InferConfig, Offload
from fantasytalking.inference.job import GenerationJob
from fantasytalking.inference.model_sources import ResolvedModel, load_pipeline, resolve_model
from fantasytalking.inference.optimizations import StepCache, WeightQuantization, apply_optimizations
from fantasytalking.models.experts import Expert, Experts
from fantasytalking.models.kv_cache import ConditionKVCache
from fantasytalking.models.presets import load_model_config
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.pipeline import FantasyTalkingPipeline
from fantasytalking.pipeline.loading.model_components import load_transformer
from fantasytalking.pipeline.loading.options import LoadingOptions

LoadedT = TypeVar("LoadedT")

WORKER_TIMEOUT = timedelta(days=1)
"""Longest wait of a worker for the coordinator, which may be waiting for audio."""


class LoadCommand(NamedTuple):
    """Asks the workers to load the transformers."""

    config: InferConfig
    has_driving_video: bool
    is_multi_speaker: bool


class ForwardCommand(NamedTuple):
    """Asks the workers to call one of the transformers."""

    expert: Expert
    latents: Tensor
    timestep: Tensor
    conditions: dict[str, tuple[int, Tensor | None]]
    """Number of each condition's tensor, and the tensor itself where it is new."""
    is_new_video: bool
    uses_cache: bool


class ShutdownCommand(NamedTuple):
    """Asks the workers to end."""

    exit_code: int


def init_processes() -> int:
    """Joins the processes that torchrun launched, and returns the rank of this one."""
    backend = "gloo"
    device = torch.accelerator.current_accelerator(check_available=True)
    if device is not None:
        torch.accelerator.set_device_index(int(os.environ["LOCAL_RANK"]))
        backend = f"cpu:gloo,{device.type}:{distributed.get_default_backend_for_device(device)}"
    distributed.init_process_group(backend, timeout=WORKER_TIMEOUT)
    return distributed.get_rank()


def run_worker() -> int:
    """Follows the coordinator, and returns the code to exit with."""
    experts: Experts | None = None
    states = {expert: _WorkerState() for expert in Expert}
    while True:
        message = _broadcast(None)
        if isinstance(message, ShutdownCommand):
            return message.exit_code
        if isinstance(message, LoadCommand):
            experts = _load_on_all_ranks(partial(_load_worker_experts, message))
        else:
            assert experts is not None and isinstance(message, ForwardCommand)
            states[message.expert].forward(experts.transformer(message.expert), message)


class Coordinator:
    """The first process."""

    def __init__(self) -> None:
        self._sent = {expert: _SentConditions() for expert in Expert}

    def load_pipeline(
        self, job: GenerationJob, model: ResolvedModel, prompts: Collection[str] | None = None
    ) -> FantasyTalkingPipeline:
        """Loads the pipeline of a job, with the transformers on every process.

        Args:
            prompts: as in `fantasytalking.inference.model_sources.load_pipeline`.

        Raises:
            InputError: a setting does not work with several processes, the pipeline cannot be loaded on one of them,
                or the attention heads cannot be divided between them.
        """
        _check_config(job.config)
        _broadcast(LoadCommand(job.config, job.has_driving_video, job.is_multi_speaker))

        def load() -> FantasyTalkingPipeline:
            pipe = load_pipeline(job.config, model, prompts)
            for transformer in pipe.experts:
                _enable_context_parallel(transformer)
            return pipe

        pipe = _load_on_all_ranks(load)
        assert pipe is not None, "the coordinator raises where a process fails"
        for expert, transformer in pipe.experts.items():
            transformer.register_forward_pre_hook(partial(self._broadcast_forward, expert), with_kwargs=True)
        return pipe

    def shutdown(self, exit_code: int) -> None:
        """Ends the workers."""
        _broadcast(ShutdownCommand(exit_code))
        distributed.destroy_process_group()

    def _broadcast_forward(
        self, expert: Expert, transformer: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> None:
        latents, timestep, conditions = arguments
        cache = keywords.get("cache")
        tokens, size = latents[0, 0].numel() // math.prod(transformer.config.patch_size), distributed.get_world_size()
        if tokens % size:
            raise InputError(
                f"{tokens} video tokens cannot be divided between {size} processes; start a number of processes that "
                "divides them, or choose another --size",
                code=ErrorCode.unsupported,
                field="--nproc-per-node",
                value=size,
            )
        is_new = cache is None or cache is not self._sent[expert].cache
        if is_new:
            self._sent[expert] = _SentConditions(cache)
        sent = self._sent[expert]
        numbered = {name: sent.register(name, value) for name, value in flatten_conditions(conditions).items()}
        _broadcast(ForwardCommand(expert, _cpu_copy(latents), _cpu_copy(timestep), numbered, is_new, cache is not None))


class _SentConditions:
    """Tensors of one video that the workers have for one transformer."""

    def __init__(self, cache: ConditionKVCache | None = None) -> None:
        self.cache = cache
        self._tensors: dict[str, dict[int, tuple[int, Tensor]]] = {}
        self._num_sent = 0

    def register(self, name: str, tensor: Tensor) -> tuple[int, Tensor | None]:
        """Returns the number of a tensor, and the tensor itself where it is new."""
        known = self._tensors.setdefault(name, {})
        if id(tensor) in known:
            return known[id(tensor)][0], None
        if name in PER_WINDOW_TENSORS:
            known.clear()
        self._num_sent += 1
        known[id(tensor)] = (self._num_sent, tensor)  # the tensor is kept, so that its id stays its own
        return self._num_sent, _cpu_copy(tensor)


class _WorkerState:
    """Tensors and cache of the video for one transformer on a worker."""

    def __init__(self) -> None:
        self._tensors: dict[str, dict[int, Tensor]] = {}
        self._cache = ConditionKVCache()

    @torch.no_grad()
    def forward(self, transformer: FantasyTalkingTransformer3DModel, command: ForwardCommand) -> None:
        device, dtype = transformer.device, transformer.dtype
        if command.is_new_video:
            self._tensors, self._cache = {}, ConditionKVCache()
        tensors: dict[str, Tensor] = {}
        for name, (number, tensor) in command.conditions.items():
            known = self._tensors.setdefault(name, {})
            if tensor is not None:
                if name in PER_WINDOW_TENSORS:
                    known.clear()
                    self._cache.evict(PER_WINDOW_TENSORS[name])
                known[number] = tensor.to(device)
            tensors[name] = known[number]
        cache = self._cache if command.uses_cache else None
        conditions = unflatten_conditions(tensors)
        transformer(command.latents.to(device, dtype), command.timestep.to(device), conditions, cache=cache)


def _broadcast(message: Any) -> Any:
    """Returns the coordinator's message on every process."""
    messages = [message]
    distributed.broadcast_object_list(messages, src=0, device=torch.device("cpu"))
    return messages[0]


def _load_on_all_ranks(load: Callable[[], LoadedT]) -> LoadedT | None:
    """Returns what `load` returns where it succeeds on every process; else None.

    Raises:
        InputError: on the coordinator, the first error of any process.
    """
    loaded: LoadedT | None = None
    error: InputError | None = None
    try:
        loaded = load()
    except InputError as raised:
        error = raised
    errors: list[InputError | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(errors, error)
    failed = [(rank, raised) for rank, raised in enumerate(errors) if raised is not None]
    if not failed:
        return loaded
    rank, first = failed[0]
    if distributed.get_rank() > 0:
        return None
    message = str(first) if rank == 0 else f"process {rank}: {first}"
    raise InputError(message, code=first.code, field=first.field, value=first.value)


def _check_config(config: InferConfig) -> None:
    """Raises where a setting does not work with several processes."""
    optimizations = config.optimizations
    refused = {
        "offload": (config.offload is not Offload.none, config.offload.value, "use offload=none"),
        "device": (config.device == "cpu" and torch.accelerator.is_available(), config.device, "leave device out"),
        "optimizations.step_cache": (
            optimizations.step_cache is not StepCache.none,
            optimizations.step_cache.value,
            "use optimizations.step_cache=none",
        ),
        "optimizations.loras": (
            any(not file.step_strength().is_constant for file in optimizations.loras),
            "a LoRA whose strength changes",
            "use the same strength at every step",
        ),
        "optimizations.vram_limit_gib": (
            optimizations.vram_limit_gib is not None,
            optimizations.vram_limit_gib,
            "leave it out",
        ),
    }
    for name, (is_set, value, cure) in refused.items():
        if is_set:
            raise InputError(
                f"{name} is {value}, which does not work with several processes; {cure}, or use one process",
                code=ErrorCode.unsupported,
                field=name,
                value=value,
            )


def _load_worker_experts(command: LoadCommand) -> Experts:
    """The transformers alone: the other components run on the coordinator."""
    config = command.config
    model = resolve_model(
        config, has_driving_video=command.has_driving_video, is_multi_speaker=command.is_multi_speaker
    )
    module_config = asdict(load_model_config(config.model).portrait)
    options = LoadingOptions(dtype=model.dtype)
    keep_quantized = config.optimizations.quantization is WeightQuantization.stored
    high, *rest = (
        load_transformer(model.stored, module_config, options, expert, keep_quantized)
        for expert in model.stored.experts
    )
    experts = Experts(high, rest[0] if rest else None, model.stored.boundary_ratio)
    apply_optimizations(experts, config.optimizations, model.device)
    for transformer in experts:
        _enable_context_parallel(transformer.to(model.device))
    return experts


def _enable_context_parallel(transformer: FantasyTalkingTransformer3DModel) -> None:
    heads, size = transformer.config.num_attention_heads, distributed.get_world_size()
    if heads % size:
        raise InputError(
            f"{heads} attention heads cannot be divided between {size} processes; start a number that divides them",
            code=ErrorCode.unsupported,
            field="--nproc-per-node",
            value=size,
        )
    transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=size))


def _cpu_copy(tensor: Tensor) -> Tensor:
    """Returns a copy on the CPU that shares no storage."""
    return tensor.detach().cpu().clone()
