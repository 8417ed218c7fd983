"""Examines a machine and the weights of a configuration: what is here, what is missing, and which settings fit."""

import math
import os
import platform
import re
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from packaging.requirements import Requirement
from torch.nn import functional

import fantasytalking
from fantasytalking.common.config import load_config, preset_path
from fantasytalking.common.errors import InputError, install_command
from fantasytalking.common.files import hash_file
from fantasytalking.common.weight_files import WEIGHT_SUFFIXES
from fantasytalking.inference.component_shapes import build_meta_components
from fantasytalking.inference.config import InferConfig, Offload
from fantasytalking.inference.download_hints import download_hint
from fantasytalking.inference.loading_plan import LoadedWeights, StoredWeight, onloaded_groups
from fantasytalking.inference.memory_plan import Phase, PhasePlan, Placement, plan_phases, run_configuration
from fantasytalking.inference.meta_run import MetaRun
from fantasytalking.inference.model_sources import find_source, resolve_model, source_names
from fantasytalking.inference.optimizations import WeightQuantization, choose_offload
from fantasytalking.inference.stored_weights import plan_stored_weights, stored_weights
from fantasytalking.models.presets import load_model_config
from fantasytalking.pipeline.generation_plan import resolve_num_inference_steps
from fantasytalking.pipeline.portrait import parse_sizes
from fantasytalking.training.compute_estimate import GUIDED_STEP_BRANCHES, estimate_flops
from fantasytalking.training.config import TrainConfig
from fantasytalking.training.memory_estimate import ClipSize

DISTRIBUTION = "fantasytalking"
RENAMED_EXTRAS = ("quantise",)
"""Former names of extras, which are not listed."""
GIB = 2**30


@dataclass(frozen=True)
class Accelerator:
    """A device beside the processor."""

    type: str
    """As torch names it: cuda, mps, xpu, npu, ..."""
    name: str
    memory_bytes: int | None
    """None: torch does not say."""


@dataclass(frozen=True)
class Machine:
    """The machine and its software."""

    version: str
    """Of this package."""
    python: str
    system: str
    cpu_cores: int
    """Cores that this process may use."""
    memory_bytes: int
    free_disk_bytes: int
    """Where the working directory lies."""
    accelerators: list[Accelerator]
    packages: dict[str, str]
    """Versions of the installed packages that this one requires, extras included."""
    missing_packages: dict[str, list[str]]
    """Missing packages by extra; under "" those that are always required."""


@dataclass(frozen=True)
class Weights:
    """One source of weights of a configuration."""

    name: str
    """Key of the configuration: base, adapter, ..."""
    source: str
    """Path or hub id."""
    path: str | None
    """Where it was found; None: it is missing."""
    formats: dict[str, int]
    """Bytes on the disk by file suffix."""
    sha256: dict[str, str]
    """By file, where hashes were asked for."""
    hint: str | None
    """How to get it, where it is missing."""


@dataclass(frozen=True)
class Fit:
    """Whether a configuration fits a device."""

    device: str
    offload: str | None
    """The least offloading that fits; None: none does."""
    detail: str
    phases: list[PhasePlan]
    """What each phase of a window is planned to take with it; empty: nothing fits."""


@dataclass(frozen=True)
class Duration:
    """Least time of one window on the first device: operations over the rate of a large matrix product."""

    size: str
    """Width, height and frames of the window."""
    num_steps: int
    num_branches: int
    """Predictions per guided step."""
    operations: float
    """Of one prediction of the transformer."""
    operations_per_second: float
    """Measured on a matrix product; attention and everything else reach less."""
    seconds: float


@dataclass(frozen=True)
class Examination:
    """Everything `examine` found."""

    machine: Machine
    model: str
    weights: list[Weights]
    component_bytes: dict[str, int]
    """Bytes of each component in the data type of the configuration; empty where the base is missing."""
    fits: list[Fit]
    duration: Duration | None
    """None: not asked for."""
    problems: list[str]
    """What prevents a generation, each with its cure."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the examination as JSON values."""
        return asdict(self)


def examine(config: InferConfig, *, hashes: bool = False, duration: bool = True) -> Examination:
    """Examines this machine and the weights of a configuration. Nothing is loaded or downloaded.

    Args:
        hashes: also compute the SHA-256 of every weight file, which reads them whole.
        duration: also estimate the least time of a window, for which a second of products is measured.
    """
    machine = examine_machine()
    weights = [
        _examine_source(name, source, hashes) for name, source in source_names(config).items() if source is not None
    ]
    problems = [
        f"missing package {name}: {_install(extra)}"
        for extra, names in machine.missing_packages.items()
        if extra in ("", "data")
        for name in names
    ]
    problems += [f"missing weights {item.hint}" for item in weights if item.path is None and item.hint]
    stored: dict[str, list[StoredWeight]] = {}
    base = next(item for item in weights if item.name == "base")
    if base.path is not None:
        found = {item.name: Path(item.path) for item in weights if item.path is not None and item.name != "base"}
        try:
            stored = stored_weights(Path(base.path), found, keeps_quantized=_keeps_quantized(config))
        except InputError as error:
            problems.append(str(error))
    loaded = plan_stored_weights(stored, config.dtype.torch_dtype, is_for_cpu=False)
    sizes = {name: each.total for name, each in loaded.items()}
    fits = []
    if sizes and not problems:
        try:
            fits = [_fit_configuration(config, *device, stored) for device in _devices(machine)]
        except InputError as error:
            problems.append(str(error))
    if fits and all(fit.offload is None for fit in fits):
        problems.append(f"the weights fit no device: {fits[0].detail}")
    least = estimate_duration(config) if duration else None
    return Examination(machine, config.model, weights, sizes, fits, least, problems)


def estimate_duration(config: InferConfig) -> Duration:
    """Returns the least time of one window of the configuration on the device that would be used."""
    size = parse_sizes(config.sizes)[0]
    run = load_config(TrainConfig, preset_path(config.model, "stage2"), ["batch_size=1"])
    operations = estimate_flops(run, ClipSize(size.width, size.height, config.window_frames, config.fps)).forward
    steps = resolve_num_inference_steps(None, config.num_inference_steps)
    rate = measure_matmul_rate(config.dtype.torch_dtype)
    seconds = operations * steps * GUIDED_STEP_BRANCHES / rate
    shown = f"{size.width}x{size.height}x{config.window_frames}"
    return Duration(shown, steps, GUIDED_STEP_BRANCHES, operations, rate, seconds)


def measure_matmul_rate(dtype: torch.dtype, clock: Callable[[], float] = time.perf_counter) -> float:
    """Returns the operations per second of a large matrix product on the accelerator, or else on the processor.

    Args:
        clock: time.process_time counts seconds of cores, whatever else the machine does.
    """
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    side = 1024 if device is None or device.type == "cpu" else 8192
    matrix = torch.ones(side, side, dtype=dtype, device=device)
    best = math.inf
    for _ in range(4):  # the first ones allocate and choose a kernel
        start = clock()
        functional.linear(matrix, matrix)[0, 0].item()  # as layers multiply
        best = min(best, clock() - start)
    return 2 * side**3 / best


def examine_machine() -> Machine:
    """Examines hardware and packages."""
    packages, missing = _packages()
    return Machine(
        fantasytalking.__version__,
        sys.version.split()[0],
        f"{platform.system()} {platform.release()} {platform.machine()}",
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        shutil.disk_usage(Path.cwd()).free,
        _accelerators(),
        packages,
        missing,
    )


def _accelerators() -> list[Accelerator]:
    if not torch.accelerator.is_available():
        return []
    kind = torch.accelerator.current_accelerator()
    assert kind is not None, "an accelerator is available"
    module = getattr(torch, kind.type, None)
    found = []
    for index in range(torch.accelerator.device_count()):
        read = getattr(module, "get_device_properties", None)
        properties = None if read is None else read(index)
        name = getattr(properties, "name", kind.type)
        found.append(Accelerator(kind.type, name, getattr(properties, "total_memory", None)))
    return found


def _packages() -> tuple[dict[str, str], dict[str, list[str]]]:
    """Versions of the installed requirements, and the missing ones by extra."""
    versions: dict[str, str] = {}
    missing: dict[str, list[str]] = {}
    for line in metadata.requires(DISTRIBUTION) or []:
        requirement = Requirement(line)
        extra = _extra_of(requirement)
        if requirement.name == DISTRIBUTION or extra in RENAMED_EXTRAS:
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            missing.setdefault(extra, []).append(requirement.name)
            continue
        versions[requirement.name] = version
        if not requirement.specifier.contains(version, prereleases=True):
            missing.setdefault(extra, []).append(f"{requirement.name}{requirement.specifier} (found {version})")
    return dict(sorted(versions.items())), missing


def _extra_of(requirement: Requirement) -> str:
    found = re.search(r"extra == ['\"]([^'\"]+)", str(requirement.marker or ""))
    return found[1] if found else ""


def _install(extra: str) -> str:
    return install_command(extra) if extra else install_command("").replace("[]", "")


def _examine_source(name: str, source: str, hashes: bool) -> Weights:
    path = find_source(source)
    if path is None:
        return Weights(name, source, None, {}, {}, download_hint(source))
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    files = [file for file in files if file.suffix.lower() in (*WEIGHT_SUFFIXES, ".onnx")]
    formats: dict[str, int] = {}
    for file in files:
        formats[file.suffix.lower()] = formats.get(file.suffix.lower(), 0) + file.stat().st_size
    root = path.parent if path.is_file() else path
    digests = {file.relative_to(root).as_posix(): hash_file(file) for file in files} if hashes else {}
    return Weights(name, source, str(path), formats, digests, None)


def _devices(machine: Machine) -> list[tuple[str, int]]:
    """Names and memory in bytes of the devices that a generation can use."""
    known = [item for item in machine.accelerators if item.memory_bytes is not None]
    return [(f"{item.type} ({item.name})", item.memory_bytes or 0) for item in known] or [("cpu", machine.memory_bytes)]


def _keeps_quantized(config: InferConfig) -> bool:
    return config.optimizations.quantization is WeightQuantization.stored


def _fit_configuration(
    config: InferConfig, device: str, memory: int, stored: Mapping[str, Sequence[StoredWeight]]
) -> Fit:
    """Runs a window of the configuration on the meta device, which shows what its activations take."""
    preset, model, kind = load_model_config(config.model), resolve_model(config), device.partition(" ")[0]
    files = dict(model.stored.components)
    if model.audio_encoder is not None:
        files["audio_encoder"] = model.audio_encoder
    models = build_meta_components(preset, model.stored.base, files=files)
    runs = run_configuration(config, model.facts, models, config.window_frames, kind, memory)
    settings = config.optimizations
    groups = onloaded_groups(models, settings.offload_blocks, settings.offload_prefetch)
    weights = plan_stored_weights(stored, config.dtype.torch_dtype, kind == "cpu", groups)
    return fit_device(device, memory, weights, runs, config)


def fit_device(
    device: str, memory: int, weights: Mapping[str, LoadedWeights], runs: Mapping[Phase, MetaRun], config: InferConfig
) -> Fit:
    """Returns the least offloading with which weights fit a device of `memory` bytes.

    Args:
        weights: by component, in the order of loading.
        runs: what the activations of each phase take.
        config: its other settings of offloading hold.
    """
    kind = device.partition(" ")[0]
    sizes = {name: each.total for name, each in weights.items()}
    try:
        offload = Offload.none.value if kind == "cpu" else choose_offload(sizes, memory / GIB)
    except InputError as error:
        return Fit(device, None, str(error), [])
    phases = plan_phases(weights, runs, Placement.of(config, kind, offload))
    needed, total = max(phase.device_bytes for phase in phases), sum(sizes.values())
    detail = f"weights {total / GIB:.1f} GiB, planned peak {needed / GIB:.1f} GiB, memory {memory / GIB:.1f} GiB"
    return Fit(device, offload, detail, phases) if needed <= memory else Fit(device, None, detail, [])
