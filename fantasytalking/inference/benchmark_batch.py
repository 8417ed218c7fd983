"""A frozen benchmark in, one video a clip out: what scripts/generate_benchmark.py does once its options are read.

What each video is made from is written beside the videos, so that the record of each can be replayed.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol as Interface

from tqdm import tqdm

from fantasytalking.common.errors import InputError
from fantasytalking.common.files import fingerprint
from fantasytalking.evaluation.benchmark.prediction_pairing import MAX_LISTED_NAMES, find_references
from fantasytalking.evaluation.benchmark.protocol import BenchmarkProtocol
from fantasytalking.inference.benchmark_inputs import input_paths, write_inputs
from fantasytalking.inference.generate import generate_video
from fantasytalking.inference.job import GenerationJob
from fantasytalking.inference.model_sources import ResolvedModel, load_pipeline, resolve_model
from fantasytalking.inference.provenance import GenerationRecord
from fantasytalking.pipeline.config import InferConfig
from fantasytalking.pipeline.pipeline import FantasyTalkingPipeline


class ProcessState(Interface):
    """What accelerate's PartialState tells of the processes of a run."""

    process_index: int
    num_processes: int


@dataclass(frozen=True)
class BenchmarkJob:
    """A benchmark to be generated."""

    protocol: BenchmarkProtocol
    references: Path
    """Folder of the real videos that the protocol names."""
    output: Path
    """NAME.mp4 and NAME.json of every clip, and what they were made from in given/."""
    config: InferConfig
    """The seed of clip n is `config.seed` + n; the picture is taken as the protocol crops it."""

    def clip_job(self, index: int) -> GenerationJob:
        """The video of clip `index`."""
        clip = self.protocol.clips[index]
        config = replace(
            self.config, seed=self.config.seed + index, fps=self.protocol.fps, min_face_fraction=0.0, notice=""
        )
        image, sounds, drivers = input_paths(clip, self.output)
        return GenerationJob(config, image, sounds, self.output / f"{clip.name}.mp4", driving_videos=drivers)


def generate_benchmark(benchmark: BenchmarkJob, process_state: ProcessState) -> int:
    """Makes this process's share of the videos that are not there yet; gives how many clips that share has.

    Raises:
        InputError: the model or a reference is missing, or the folder holds videos of another model or other settings;
            or, once all others were made, clips could not be used.
    """
    place = resolve_model(benchmark.config, has_driving_video=benchmark.protocol.is_reenactment)
    find_references(benchmark.protocol, benchmark.references)
    weights = {name: fingerprint(path) for name, path in place.files.paths.items()}
    # All of the folder before anything is added to it, so that it never mixes models or settings.
    made = [_is_complete(benchmark.clip_job(number), weights) for number in range(len(benchmark.protocol.clips))]
    pipe: FantasyTalkingPipeline | None = None
    share = range(process_state.process_index, len(benchmark.protocol.clips), process_state.num_processes)
    refused: list[str] = []
    for number in tqdm(
        share, desc="videos", unit=" clips", dynamic_ncols=True, disable=process_state.process_index > 0
    ):
        if made[number]:
            continue
        if pipe is None:
            pipe = load_pipeline(benchmark.config, place.files, place.device)
            pipe.set_progress_bar_config(disable=True)
        reason = _generate_clip(benchmark, number, place, pipe)
        if reason:
            refused.append(f"{benchmark.protocol.clips[number].name} ({reason})")
    if refused:
        shown = "; ".join(refused[:MAX_LISTED_NAMES])
        raise InputError(f"{len(refused)} of {len(share)} clips could not be made: {shown}")
    return len(share)


def _generate_clip(benchmark: BenchmarkJob, index: int, model: ResolvedModel, pipe: FantasyTalkingPipeline) -> str:
    """Makes one video; gives why it could not be made, or nothing."""
    job = benchmark.clip_job(index)
    try:
        write_inputs(benchmark.protocol, benchmark.protocol.clips[index], benchmark.references, job)
        generate_video(job, model, lambda: pipe)
    except InputError as error:
        return str(error)
    return ""


def _is_complete(job: GenerationJob, fingerprints: dict[str, str]) -> bool:
    """Whether the video is there; its record is the last to be put in place.

    Raises:
        InputError: it was made by other weights or with other settings.
    """
    path = job.output.with_suffix(".json")
    if not (job.output.is_file() and path.is_file()):
        return False
    record = GenerationRecord.load(path)
    if record.config != job.config or any(record.hashes.get(name) != value for name, value in fingerprints.items()):
        raise InputError(f"'{job.output}' was made by another model or with other settings; choose another --output")
    return True
