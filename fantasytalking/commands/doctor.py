"""`fantasytalking doctor`: says what this machine has, what is missing, and which settings fit."""

import json
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from fantasytalking.commands.invocation import Invocation

if TYPE_CHECKING:
    from fantasytalking.inference.doctor import Examination

DESCRIPTION = """Says what this machine has, what a configuration needs and lacks, and which settings fit.

    {command}                                          nano
    {command} --config configs/wan14b/infer.yaml       another configuration, with KEY=VALUE as for infer
    {command} --json                                   for an issue report; --hashes adds a SHA-256 of every file

Nothing is loaded, changed or downloaded. The exit code is 1 where a generation cannot run.
"""


def main(arguments: Sequence[str], invocation: Invocation) -> None:
    """Parses the arguments and prints the examination."""
    parser = invocation.parser(DESCRIPTION)
    parser.add_path("--config", default="configs/nano/infer.yaml", help="inference configuration (default: nano)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--hashes", action="store_true", help="hash every weight file, which reads them whole")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings of the configuration")
    given = parser.parse_args(arguments)

    from fantasytalking.common.config import load_config
    from fantasytalking.inference.config import InferConfig
    from fantasytalking.inference.console import silence_libraries
    from fantasytalking.inference.doctor import examine

    silence_libraries()
    found = examine(load_config(InferConfig, given.config, given.overrides), hashes=given.hashes)
    print(json.dumps(found.to_dict(), indent=2) if given.json else "\n".join(_lines(found)))
    if found.problems:
        sys.exit(1)


def _lines(found: "Examination") -> Iterator[str]:
    machine = found.machine
    yield f"fantasytalking {machine.version}, Python {machine.python}, {machine.system}"
    memory, disk = _gib(machine.memory_bytes), _gib(machine.free_disk_bytes)
    yield f"processor: {machine.cpu_cores} cores, {memory} memory, {disk} free on disk"
    for device in machine.accelerators:
        memory = "" if device.memory_bytes is None else f", {_gib(device.memory_bytes)}"
        yield f"{device.type}: {device.name}{memory}"
    if not machine.accelerators:
        yield "accelerator: none; the processor is used"
    named = ("torch", "diffusers", "transformers", "accelerate", "deepspeed")
    yield "packages: " + ", ".join(f"{name} {machine.packages[name]}" for name in named if name in machine.packages)
    for extra, names in machine.missing_packages.items():
        yield f"not installed ({extra or 'required'}): {', '.join(names)}"
    yield ""
    yield f"model: {found.model}"
    for item in found.weights:
        files = ", ".join(f"{suffix} {_gib(size)}" for suffix, size in item.formats.items())
        yield f"  {item.name}: {item.path or 'missing'}{f' ({files})' if files else ''}"
        for file, digest in item.sha256.items():
            yield f"    {digest}  {file}"
    for component, size in found.component_bytes.items():
        yield f"  {component}: {_gib(size)} loaded"
    for fit in found.fits:
        yield f"  {fit.device}: {'does not fit' if fit.offload is None else f'offload={fit.offload}'} ({fit.detail})"
        for phase in fit.phases:
            planned = f"{_gib(phase.device_bytes)} on the device, {_gib(phase.main_bytes)} of main memory"
            yield f"    {phase.phase}: planned {planned}"
    if found.duration is not None:
        least = found.duration
        yield (
            f"  time: at least {least.seconds:.3g} s for a window of {least.size}: {least.num_steps} steps of "
            f"{least.num_branches} predictions, {least.operations / 1e12:.3g} T operations each, at "
            f"{least.operations_per_second / 1e12:.3g} T per second as measured on a matrix product"
        )
    yield ""
    yield from (f"problem: {problem}" for problem in found.problems)
    if not found.problems:
        yield "no problem found: a video can be generated"


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
