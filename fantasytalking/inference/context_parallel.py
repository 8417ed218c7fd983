"""Several processes for one video (torchrun): each computes its share of the tokens of every call of the transformer.

The first process leads: it reads, encodes, decides, decodes and writes, and nothing of that is done twice. Before each
call of its transformer it sends the others what the call is given; they make the same call, in which context
parallelism (diffusers, Ulysses: arXiv 2309.14509) divides the tokens. What is constant over a video is sent once. So
everything that drives a transformer works with several processes without knowing of them; step caches alone do not,
since each process would decide by its own tokens which blocks to leave out.
"""

import os
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

import torch
from diffusers import ContextParallelConfig
from torch import Tensor, distributed

from fantasytalking.common.errors import InputError
from fantasytalking.conditions import Conditions, ExpressionCondition
from fantasytalking.inference.model_sources import resolve_model
from fantasytalking.models.kv_cache import ConditionKVCache
from fantasytalking.models.presets import load_model_config
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.pipeline.config import InferConfig, Offload
from fantasytalking.pipeline.loading import load_transformer
from fantasytalking.pipeline.optimizations import StepCache, apply_optimizations
from fantasytalking.pipeline.pipeline import FantasyTalkingPipeline

WORKER_TIMEOUT = timedelta(days=1)
"""For which the others wait for the leader, who may be waiting for sound."""
EXPRESSION_PREFIX = "expression."
"""Before the names of what is within the expression condition."""
WINDOWED_TENSORS = (
    "audio_embeds",
    "audio_mask",
    f"{EXPRESSION_PREFIX}features",
    f"{EXPRESSION_PREFIX}present",
    f"{EXPRESSION_PREFIX}regions",
    "speaker_regions",
)
"""Conditions that change from window to window."""
_CACHE_KEYS = {"audio_embeds": "audio", f"{EXPRESSION_PREFIX}features": "expression"}
"""Entry of the condition cache that a windowed tensor invalidates."""


class LoadCommand(NamedTuple):
    """To the others: load the transformer."""

    config: InferConfig
    has_driving_video: bool
    is_multi_speaker: bool
    """Whether videos drive the faces."""


class ForwardCommand(NamedTuple):
    """To the others: call the transformer."""

    latents: Tensor
    timestep: Tensor
    conditions: dict[str, tuple[int, Tensor | None]]
    """Number of each condition's tensor, and the tensor itself where it is new."""
    is_new_video: bool
    uses_cache: bool


class ShutdownCommand(NamedTuple):
    """To the others: the work is done."""

    exit_code: int
    """With which to exit."""


def launched_world_size() -> int:
    """Processes that were started together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def init_processes() -> int:
    """Joins the processes that torchrun started; gives this one's rank."""
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, timeout=WORKER_TIMEOUT)
    return distributed.get_rank()


def run_worker() -> int:
    """What every process but the first does; gives the code to exit with."""
    transformer: FantasyTalkingTransformer3DModel | None = None
    told = _WorkerState()
    while True:
        message = _broadcast(None)
        if isinstance(message, ShutdownCommand):
            return message.exit_code
        if isinstance(message, LoadCommand):
            transformer = _load_on_all_ranks(partial(_load_worker_transformer, message))
        else:
            assert transformer is not None and isinstance(message, ForwardCommand)
            told.forward(transformer, message)


class Coordinator:
    """The first process."""

    def __init__(self) -> None:
        self._sent_tensors: dict[str, dict[int, tuple[int, Tensor]]] = {}
        self._cache: ConditionKVCache | None = None
        self._num_sent = 0

    def load_pipeline(
        self,
        config: InferConfig,
        load: Callable[[], FantasyTalkingPipeline],
        *,
        has_driving_video: bool = False,
        is_multi_speaker: bool = False,
    ) -> FantasyTalkingPipeline:
        """Loads the pipeline, with the transformer on every process.

        Args:
            driven, several: as `load` was told.

        Raises:
            InputError: as `load`; a process could not load it; or it cannot be divided by the number of processes.
        """
        _check_config(config)
        _broadcast(LoadCommand(config, has_driving_video, is_multi_speaker))
        loaded: list[FantasyTalkingPipeline] = []

        def parallel() -> FantasyTalkingTransformer3DModel:
            loaded.append(load())
            return _enable_context_parallel(loaded[0].transformer)

        transformer = _load_on_all_ranks(parallel)
        assert transformer is not None, "an error was raised"
        transformer.register_forward_pre_hook(self._broadcast_forward, with_kwargs=True)
        return loaded[0]

    def shutdown(self, exit_code: int) -> None:
        """Lets the others end."""
        _broadcast(ShutdownCommand(exit_code))
        distributed.destroy_process_group()

    def _broadcast_forward(self, _: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        latents, timestep, conditions = arguments
        cache = keywords.get("cache")
        tokens, size = latents[0, 0].numel() // 4, distributed.get_world_size()
        if tokens % size:
            raise InputError(
                f"{tokens} video tokens cannot be divided between {size} processes; start a number of processes that "
                "divides them, or choose another --size"
            )
        is_new = cache is None or cache is not self._cache
        if is_new:
            self._sent_tensors, self._cache = {}, cache
        numbered = {name: self._register_tensor(name, value) for name, value in _flatten_conditions(conditions).items()}
        _broadcast(ForwardCommand(_cpu_copy(latents), _cpu_copy(timestep), numbered, is_new, cache is not None))

    def _register_tensor(self, name: str, tensor: Tensor) -> tuple[int, Tensor | None]:
        known = self._sent_tensors.setdefault(name, {})
        if id(tensor) in known:
            return known[id(tensor)][0], None
        if name in WINDOWED_TENSORS:
            known.clear()
        self._num_sent += 1
        known[id(tensor)] = (self._num_sent, tensor)  # the tensor is kept, so that its id stays its own
        return self._num_sent, _cpu_copy(tensor)


class _WorkerState:
    """What one of the others knows of the video."""

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
                if name in WINDOWED_TENSORS:
                    known.clear()
                    if name in _CACHE_KEYS:
                        self._cache.evict(_CACHE_KEYS[name])
                known[number] = tensor.to(device)
            tensors[name] = known[number]
        cache = self._cache if command.uses_cache else None
        conditions = _unflatten_conditions(tensors)
        transformer(command.latents.to(device, dtype), command.timestep.to(device), conditions, cache=cache)


def _broadcast(message: Any) -> Any:
    """The leader's message, on every process."""
    held = [message]
    distributed.broadcast_object_list(held, src=0, device=torch.device("cpu"))
    return held[0]


def _load_on_all_ranks(load: Callable[[], FantasyTalkingTransformer3DModel]) -> FantasyTalkingTransformer3DModel | None:
    """What `load` gives, when it succeeds on every process; else None, and on the leader the first error.

    Raises:
        InputError: on the leader, that of any process.
    """
    made: FantasyTalkingTransformer3DModel | None = None
    error = ""
    try:
        made = load()
    except InputError as raised:
        error = str(raised)
    errors = [""] * distributed.get_world_size()
    distributed.all_gather_object(errors, error)
    failed = [(rank, text) for rank, text in enumerate(errors) if text]
    if not failed:
        return made
    rank, text = failed[0]
    if distributed.get_rank() == 0:
        raise InputError(text if rank == 0 else f"process {rank}: {text}")
    return None


def _check_config(config: InferConfig) -> None:
    if config.offload is not Offload.none:
        raise InputError(f"offload is '{config.offload.value}', which several processes do not share; use offload=none")
    if config.device == "cpu" and torch.cuda.is_available():
        raise InputError("device is 'cpu', but several processes divide a video on the GPUs; leave device out")
    if config.optimizations.step_cache is not StepCache.none:
        raise InputError(
            f"optimizations.step_cache is {config.optimizations.step_cache.value}, which several processes cannot "
            "follow; "
            "use optimizations.step_cache=none, or one process"
        )
    if config.optimizations.vram_limit_gib is not None:
        raise InputError(
            f"optimizations.vram_limit_gib is {config.optimizations.vram_limit_gib:g}, but several processes do not "
            "share "
            "offloading; "
            "leave it out, or use one process"
        )


def _load_worker_transformer(command: LoadCommand) -> FantasyTalkingTransformer3DModel:
    """The transformer alone: the other parts work on the leader."""
    config = command.config
    weights, device = resolve_model(
        config, has_driving_video=command.has_driving_video, is_multi_speaker=command.is_multi_speaker
    )
    sizes, dtype = asdict(load_model_config(config.model).portrait), config.dtype.torch_dtype
    transformer = load_transformer(weights.base, weights.adapter, sizes, dtype, weights.expression_adapter)
    apply_optimizations(transformer, config.optimizations, device)
    return _enable_context_parallel(transformer.to(device))


def _enable_context_parallel(transformer: FantasyTalkingTransformer3DModel) -> FantasyTalkingTransformer3DModel:
    heads, size = transformer.config.num_attention_heads, distributed.get_world_size()
    if heads % size:
        raise InputError(
            f"{heads} attention heads cannot be divided between {size} processes; start a number that divides them"
        )
    transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=size))
    return transformer


def _flatten_conditions(conditions: Conditions) -> dict[str, Tensor]:
    """Every tensor of the conditions by its name."""
    values = conditions._asdict()
    expression = values.pop("expression")
    if expression is not None:
        values |= {EXPRESSION_PREFIX + name: value for name, value in expression._asdict().items()}
    return {name: value for name, value in values.items() if value is not None}


def _unflatten_conditions(tensors: dict[str, Tensor]) -> Conditions:
    """The conditions that `_flatten_conditions` took apart."""
    inner = {
        name.removeprefix(EXPRESSION_PREFIX): value
        for name, value in tensors.items()
        if name.startswith(EXPRESSION_PREFIX)
    }
    values: dict[str, Any] = {name: tensors.get(name) for name in Conditions._fields}
    if inner:
        features, present, scale = (inner[name] for name in ("features", "present", "scale"))
        values["expression"] = ExpressionCondition(features, present, inner.get("regions"), scale)
    return Conditions(**values)


def _cpu_copy(tensor: Tensor) -> Tensor:
    """A copy in main memory that brings nothing but its own values."""
    return tensor.detach().cpu().clone()
