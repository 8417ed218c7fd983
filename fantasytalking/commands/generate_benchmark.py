"""`fantasytalking generate-benchmark`: generates the video of every clip of a frozen benchmark."""

from collections.abc import Sequence

from fantasytalking.commands.invocation import Invocation

DESCRIPTION = """Generates the videos of a frozen benchmark: each clip's portrait, driven by its audio or videos.

    {command} --manifest hdtf.json --references HDTF --output VIDEOS [key=value ...]
    accelerate launch --config_file configs/accelerate/ddp.yaml {target} ...    one video per rank

Resumes an interrupted run. The command freeze-benchmark writes the manifest, the command evaluate scores the videos.
"""


def main(arguments: Sequence[str], invocation: Invocation) -> None:
    """Parses the arguments, generates the videos, and prints their number."""
    parser = invocation.parser(DESCRIPTION)
    parser.add_path("--manifest", required=True, help="as freeze-benchmark writes it")
    parser.add_path("--references", required=True, help="folder of the dataset's videos")
    parser.add_path("--output", required=True, help="new folder, or that of a run to resume")
    parser.add_path("--portraits", help="folder of NAME.png; default: the protocol's portraits, or first frames")
    parser.add_path("--config", help="inference settings; default: configs/nano/infer.yaml")
    parser.add_settings("settings, as in num_inference_steps=20 face_scale=0")
    given = parser.parse_intermixed_args(arguments)

    from fantasytalking.common.config import load_config, preset_path
    from fantasytalking.common.locks import lock_output
    from fantasytalking.common.processes import connect_processes
    from fantasytalking.evaluation.benchmark.protocol import BenchmarkProtocol
    from fantasytalking.inference.benchmark_batch import BenchmarkJob, generate_benchmark
    from fantasytalking.inference.config import InferConfig
    from fantasytalking.inference.console import silence_libraries

    config = load_config(InferConfig, given.config or preset_path("nano", "infer"), given.overrides)
    protocol = BenchmarkProtocol.load(given.manifest)
    job = BenchmarkJob(protocol, given.references, given.output, config, given.portraits)
    silence_libraries()
    state = connect_processes(cpu=config.device == "cpu")
    with lock_output(given.output, hold=state.is_main_process):
        count = generate_benchmark(job, state)
        state.wait_for_everyone()  # the lock is that of all processes
    print(f"{count} clips of protocol {job.protocol.id} in '{given.output}'")
    state.destroy_process_group()
