"""A frozen benchmark in, one video a clip out: what scripts/generate_benchmark.py does once its options are read.

What each video is made from is written beside the videos, so that the record of each can be replayed.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol as Interface

from tqdm import tqdm

from fantasytalking.common.errors import InputError
from fantasytalking.common.files import fingerprint
from fantasytalking.evaluation.benchmark.prediction_pairing import NAMES_SHOWN, find_references
from fantasytalking.evaluation.benchmark.protocol import Protocol
from fantasytalking.inference.benchmark_inputs import given_paths, write_given
from fantasytalking.inference.generate import make_video
from fantasytalking.inference.job import Job
from fantasytalking.inference.model_sources import Workplace, load_pipeline, workplace
from fantasytalking.inference.provenance import Record
from fantasytalking.pipeline.config import InferConfig
from fantasytalking.pipeline.pipeline import FantasyTalkingPipeline


class Processes(Interface):
    """What accelerate's PartialState tells of the processes of a run."""

    process_index: int
    num_processes: int


@dataclass(frozen=True)
class Batch:
    """A benchmark to be generated."""

    protocol: Protocol
    references: Path
    """Folder of the real videos that the protocol names."""
    output: Path
    """NAME.mp4 and NAME.json of every clip, and what they were made from in given/."""
    config: InferConfig
    """The seed of clip n is `config.seed` + n; the picture is taken as the protocol crops it."""

    def job(self, number: int) -> Job:
        """The video of clip `number`."""
        clip = self.protocol.clips[number]
        config = replace(self.config, seed=self.config.seed + number, fps=self.protocol.fps, least_face=0.0, note="")
        image, sounds, drivers = given_paths(clip, self.output)
        return Job(config, image, sounds, self.output / f"{clip.name}.mp4", drivers=drivers)


def make_batch(batch: Batch, processes: Processes) -> int:
    """Makes this process's share of the videos that are not there yet; gives how many clips that share has.

    Raises:
        InputError: the model or a reference is missing, or the folder holds videos of another model or other settings;
            or, once all others were made, clips could not be used.
    """
    place = workplace(batch.config, driven=batch.protocol.driven)
    find_references(batch.protocol, batch.references)
    weights = {name: fingerprint(path) for name, path in place.weights.places.items()}
    # All of the folder before anything is added to it, so that it never mixes models or settings.
    made = [_is_made(batch.job(number), weights) for number in range(len(batch.protocol.clips))]
    pipe: FantasyTalkingPipeline | None = None
    share = range(processes.process_index, len(batch.protocol.clips), processes.num_processes)
    refused: list[str] = []
    for number in tqdm(share, desc="videos", unit=" clips", dynamic_ncols=True, disable=processes.process_index > 0):
        if made[number]:
            continue
        if pipe is None:
            pipe = load_pipeline(batch.config, place.weights, place.device)
            pipe.set_progress_bar_config(disable=True)
        reason = _make(batch, number, place, pipe)
        if reason:
            refused.append(f"{batch.protocol.clips[number].name} ({reason})")
    if refused:
        shown = "; ".join(refused[:NAMES_SHOWN])
        raise InputError(f"{len(refused)} of {len(share)} clips could not be made: {shown}")
    return len(share)


def _make(batch: Batch, number: int, place: Workplace, pipe: FantasyTalkingPipeline) -> str:
    """Makes one video; gives why it could not be made, or nothing."""
    job = batch.job(number)
    try:
        write_given(batch.protocol, batch.protocol.clips[number], batch.references, job)
        make_video(job, place, lambda: pipe)
    except InputError as error:
        return str(error)
    return ""


def _is_made(job: Job, weights: dict[str, str]) -> bool:
    """Whether the video is there; its record is the last to be put in place.

    Raises:
        InputError: it was made by other weights or with other settings.
    """
    path = job.output.with_suffix(".json")
    if not (job.output.is_file() and path.is_file()):
        return False
    record = Record.load(path)
    if record.config != job.config or any(record.hashes.get(name) != value for name, value in weights.items()):
        raise InputError(f"'{job.output}' was made by another model or with other settings; choose another --output")
    return True
