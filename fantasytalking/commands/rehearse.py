"""`fantasytalking rehearse`: generates a video with random weights of true sizes, and says what it took."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fantasytalking.commands.invocation import Invocation

if TYPE_CHECKING:
    from fantasytalking.inference.rehearsal.run import Rehearsal

FORMATS = ("safetensors", "fp8", "fp8_scaled", "gguf_q8_0", "gguf_q4_0")
"""Of `WeightFormat`, which takes seconds to import."""
DESCRIPTION = """Rehearses a generation before its weights are downloaded.

    {command} --preset wan1.3b --work rehearsal --steps 2       write random weights, generate, report
    {command} --work rehearsal --clean                          remove them

Random weights are written in the published layouts and sizes: diffusers' folders, or single files in the original
names. A video of them is generated as by infer, and seconds and peak memory of every phase are printed beside what was
planned. The video shows noise. Weights that an earlier call has written are used again. The face encoder is not
rehearsed.
"""


def main(arguments: Sequence[str], invocation: Invocation) -> None:
    """Parses the arguments, rehearses and prints the measurements."""
    parser = invocation.parser(DESCRIPTION)
    parser.add_argument("--preset", default="nano", help="preset of configs (default: nano)")
    parser.add_path("--work", required=True, help="folder of its own for the weights")
    parser.add_argument("--size", default="256x256", help="WIDTHxHEIGHT of the video (default: 256x256)")
    parser.add_argument("--frames", type=int, default=17, help="frames of the video, one window (default: 17)")
    parser.add_argument("--steps", type=int, help="denoising steps (default: the preset's)")
    parser.add_argument("--layers", type=int, help="most layers of transformer, text and image encoder (default: all)")
    parser.add_argument("--format", default="safetensors", choices=FORMATS, help="how the weights are stored")
    parser.add_argument("--aligned", action="store_true", help="files whose weights a CPU uses where they are mapped")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--clean", action="store_true", help="only remove the work folder")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="further settings of inference")
    given = parser.parse_args(arguments)

    from fantasytalking.inference.console import notify, silence_libraries
    from fantasytalking.inference.rehearsal.run import RehearsalRequest, rehearse
    from fantasytalking.inference.rehearsal.stored_layouts import WeightFormat
    from fantasytalking.inference.rehearsal.work_folder import remove_work_folder

    work = Path(given.work)
    if given.clean:
        remove_work_folder(work)
        notify(f"removed '{work}'")
        return
    silence_libraries()
    done = rehearse(
        RehearsalRequest(
            given.preset,
            work,
            given.size,
            given.frames,
            given.steps,
            given.layers,
            WeightFormat(given.format),
            given.aligned,
            given.device,
            given.settings,
        )
    )
    print(json.dumps(done.to_dict(), indent=2) if given.json else "\n".join(_lines(done)))


def _lines(done: "Rehearsal") -> Iterator[str]:
    """A Markdown table. On a CPU, seconds are compared as those of its cores, which other programs do not change."""
    yield f"{done.preset} on {done.device}: {done.disk_bytes / 2**30:.2f} GiB of weights on the disk"
    yield ""
    unit = "core s" if done.device == "cpu" else "s"
    yield f"| phase | {unit}, planned | core s | s | GiB, planned | GiB | GiB of mapped files |"
    yield "|---|---|---|---|---|---|---|"
    for phase in done.phases:
        planned = "" if phase.planned_seconds is None else f"{phase.planned_seconds:.1f}"
        memory = " | ".join(_gib(value) for value in (phase.planned_bytes, phase.bytes, phase.mapped_bytes))
        yield f"| {phase.phase} | {planned} | {phase.core_seconds:.1f} | {phase.seconds:.1f} | {memory} |"
    yield ""
    yield f"peak memory: planned {_gib(done.planned_peak)} GiB, measured {_gib(done.peak)} GiB"
    yield f"video of noise: {done.video}"


def _gib(size: int | None) -> str:
    return "" if size is None else f"{size / 2**30:.2f}"
