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
from fantasytalking.inference.model_sources import workplace
from fantasytalking.models.kv_cache import ConditionCache
from fantasytalking.models.presets import load_model_config
from fantasytalking.models.transformer import FantasyTalkingTransformer3DModel
from fantasytalking.pipeline.config import InferConfig, Offload
from fantasytalking.pipeline.loading import load_transformer
from fantasytalking.pipeline.optimizations import StepCache, apply_savings
from fantasytalking.pipeline.pipeline import FantasyTalkingPipeline

PATIENCE = timedelta(days=1)
"""For which the others wait for the leader, who may be waiting for sound."""
INNER = "expression."
"""Before the names of what is within the expression condition."""
PASSING = ("audio", "audio_mask", f"{INNER}features", f"{INNER}present", f"{INNER}regions", "speaker_regions")
"""Conditions that change within a video, one after another."""


class Load(NamedTuple):
    """To the others: load the transformer."""

    config: InferConfig
    driven: bool
    several: bool
    """Whether videos drive the faces."""


class Call(NamedTuple):
    """To the others: call the transformer."""

    latents: Tensor
    timestep: Tensor
    conditions: dict[str, tuple[int, Tensor | None]]
    """Number of each condition's tensor, and the tensor itself where it is new."""
    is_new_video: bool
    is_cached: bool


class Dismissal(NamedTuple):
    """To the others: the work is done."""

    code: int
    """With which to exit."""


def launched() -> int:
    """Processes that were started together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def join() -> int:
    """Joins the processes that torchrun started; gives this one's rank."""
    backend = "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, timeout=PATIENCE)
    return distributed.get_rank()


def follow() -> int:
    """What every process but the first does; gives the code to exit with."""
    transformer: FantasyTalkingTransformer3DModel | None = None
    told = _Told()
    while True:
        message = _sent(None)
        if isinstance(message, Dismissal):
            return message.code
        if isinstance(message, Load):
            transformer = _agreed(partial(_load, message))
        else:
            assert transformer is not None and isinstance(message, Call)
            told.call(transformer, message)


class Leader:
    """The first process."""

    def __init__(self) -> None:
        self._known: dict[str, dict[int, tuple[int, Tensor]]] = {}
        self._cache: ConditionCache | None = None
        self._count = 0

    def open(
        self,
        config: InferConfig,
        load: Callable[[], FantasyTalkingPipeline],
        *,
        driven: bool = False,
        several: bool = False,
    ) -> FantasyTalkingPipeline:
        """Loads the pipeline, with the transformer on every process.

        Args:
            driven, several: as `load` was told.

        Raises:
            InputError: as `load`; a process could not load it; or it cannot be divided by the number of processes.
        """
        _check(config)
        _sent(Load(config, driven, several))
        loaded: list[FantasyTalkingPipeline] = []

        def parallel() -> FantasyTalkingTransformer3DModel:
            loaded.append(load())
            return _divided(loaded[0].transformer)

        transformer = _agreed(parallel)
        assert transformer is not None, "an error was raised"
        transformer.register_forward_pre_hook(self._announce, with_kwargs=True)
        return loaded[0]

    def dismiss(self, code: int) -> None:
        """Lets the others end."""
        _sent(Dismissal(code))
        distributed.destroy_process_group()

    def _announce(self, _: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
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
            self._known, self._cache = {}, cache
        numbered = {name: self._number(name, value) for name, value in _flat(conditions).items()}
        _sent(Call(_plain(latents), _plain(timestep), numbered, is_new, cache is not None))

    def _number(self, name: str, tensor: Tensor) -> tuple[int, Tensor | None]:
        known = self._known.setdefault(name, {})
        if id(tensor) in known:
            return known[id(tensor)][0], None
        if name in PASSING:
            known.clear()
        self._count += 1
        known[id(tensor)] = (self._count, tensor)  # the tensor is kept, so that its id stays its own
        return self._count, _plain(tensor)


class _Told:
    """What one of the others knows of the video."""

    def __init__(self) -> None:
        self._known: dict[str, dict[int, Tensor]] = {}
        self._cache = ConditionCache()

    @torch.no_grad()
    def call(self, transformer: FantasyTalkingTransformer3DModel, call: Call) -> None:
        device, dtype = transformer.device, transformer.dtype
        if call.is_new_video:
            self._known, self._cache = {}, ConditionCache()
        tensors: dict[str, Tensor] = {}
        for name, (number, tensor) in call.conditions.items():
            known = self._known.setdefault(name, {})
            if tensor is not None:
                if name in PASSING:
                    known.clear()
                    self._cache.forget(name.removesuffix(".features"))
                known[number] = tensor.to(device)
            tensors[name] = known[number]
        cache = self._cache if call.is_cached else None
        conditions = _joined(tensors)
        transformer(call.latents.to(device, dtype), call.timestep.to(device), conditions, cache=cache)


def _sent(message: Any) -> Any:
    """The leader's message, on every process."""
    held = [message]
    distributed.broadcast_object_list(held, src=0, device=torch.device("cpu"))
    return held[0]


def _agreed(load: Callable[[], FantasyTalkingTransformer3DModel]) -> FantasyTalkingTransformer3DModel | None:
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


def _check(config: InferConfig) -> None:
    if config.offload is not Offload.none:
        raise InputError(f"offload is '{config.offload.value}', which several processes do not share; use offload=none")
    if config.device == "cpu" and torch.cuda.is_available():
        raise InputError("device is 'cpu', but several processes divide a video on the GPUs; leave device out")
    if config.savings.step_cache is not StepCache.none:
        raise InputError(
            f"savings.step_cache is {config.savings.step_cache.value}, which several processes cannot follow; "
            "use savings.step_cache=none, or one process"
        )
    if config.savings.gpu_gib is not None:
        raise InputError(
            f"savings.gpu_gib is {config.savings.gpu_gib:g}, but several processes do not share offloading; "
            "leave it out, or use one process"
        )


def _load(message: Load) -> FantasyTalkingTransformer3DModel:
    """The transformer alone: the other parts work on the leader."""
    config = message.config
    weights, device = workplace(config, driven=message.driven, several=message.several)
    sizes, dtype = asdict(load_model_config(config.model).portrait), getattr(torch, config.precision.value)
    transformer = load_transformer(weights.base, weights.adapter, sizes, dtype, weights.expression_adapter)
    apply_savings(transformer, config.savings, device)
    return _divided(transformer.to(device))


def _divided(transformer: FantasyTalkingTransformer3DModel) -> FantasyTalkingTransformer3DModel:
    heads, size = transformer.config.num_attention_heads, distributed.get_world_size()
    if heads % size:
        raise InputError(
            f"{heads} attention heads cannot be divided between {size} processes; start a number that divides them"
        )
    transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=size))
    return transformer


def _flat(conditions: Conditions) -> dict[str, Tensor]:
    """Every tensor of the conditions by its name."""
    values = conditions._asdict()
    expression = values.pop("expression")
    if expression is not None:
        values |= {INNER + name: value for name, value in expression._asdict().items()}
    return {name: value for name, value in values.items() if value is not None}


def _joined(tensors: dict[str, Tensor]) -> Conditions:
    """The conditions that `_flat` took apart."""
    inner = {name.removeprefix(INNER): value for name, value in tensors.items() if name.startswith(INNER)}
    values: dict[str, Any] = {name: tensors.get(name) for name in Conditions._fields}
    if inner:
        features, present, gate = (inner[name] for name in ("features", "present", "gate"))
        values["expression"] = ExpressionCondition(features, present, inner.get("regions"), gate)
    return Conditions(**values)


def _plain(tensor: Tensor) -> Tensor:
    """A copy in main memory that brings nothing but its own values."""
    return tensor.detach().cpu().clone()
