#!/usr/bin/env python
"""Generates the videos of a frozen benchmark: each clip's portrait with its audio or driving videos, as NAME.mp4.

    python scripts/generate_benchmark.py --manifest hdtf.json --references HDTF --output VIDEOS [key=value ...]
    accelerate launch scripts/generate_benchmark.py ...             one video per rank, in one shared output folder

Resumes an interrupted run. scripts/make_benchmark.py freezes a benchmark, scripts/evaluate.py scores it.
"""

import argparse
from datetime import timedelta
from pathlib import Path

from fantasytalking.common.errors import exit_cleanly


def main() -> None:
    from accelerate import PartialState

    from fantasytalking.common.config import load_config, preset_path
    from fantasytalking.evaluation.benchmark.protocol import BenchmarkProtocol
    from fantasytalking.inference.benchmark_batch import BenchmarkJob, generate_benchmark
    from fantasytalking.inference.generate import silence_libraries
    from fantasytalking.pipeline.config import InferConfig

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", type=Path, required=True, help="file written by scripts/make_benchmark.py")
    parser.add_argument("--references", type=Path, required=True, help="folder of the dataset's videos")
    parser.add_argument("--output", type=Path, required=True, help="new folder, or that of a run to resume")
    parser.add_argument("--config", type=Path, help="default: configs/nano/infer.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, such as face_scale=0")
    arguments = parser.parse_intermixed_args()
    config = load_config(InferConfig, arguments.config or preset_path("nano", "infer"), arguments.overrides)
    batch = BenchmarkJob(BenchmarkProtocol.load(arguments.manifest), arguments.references, arguments.output, config)
    silence_libraries()
    # Long enough that no rank times out while another still has hours of work.
    state = PartialState(cpu=config.device == "cpu", timeout=timedelta(days=14))
    count = generate_benchmark(batch, state)
    print(f"{count} clips of protocol {batch.protocol.id} in '{arguments.output}'")
    state.destroy_process_group()


if __name__ == "__main__":
    exit_cleanly(main)
