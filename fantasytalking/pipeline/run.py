"""From files to a video file: what scripts/infer.py does once its options are read."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from fantasytalking import media
from fantasytalking.encoders.wav2vec import SAMPLE_RATE
from fantasytalking.errors import InputError
from fantasytalking.files import existing_file, hash_file, written_whole
from fantasytalking.models.presets import load_model_config
from fantasytalking.pipeline.controls import check_speech, face_weight, motion_intensity
from fantasytalking.pipeline.distilled import check_followed, goes_on_saved, step_count
from fantasytalking.pipeline.pipeline import FantasyTalkingOutput, FantasyTalkingPipeline
from fantasytalking.pipeline.portrait import Portrait, frame_portrait, parse_sizes
from fantasytalking.pipeline.record import Record
from fantasytalking.pipeline.savings import apply_savings, choose_offload
from fantasytalking.pipeline.scheduling import make_scheduler
from fantasytalking.pipeline.settings import InferConfig, Offload
from fantasytalking.pipeline.weights import Weights, find_weights

SOUND_RATE = 48_000
"""Of the sound that is written; wav2vec2 hears it at 16 kHz."""
SHEET_FRAMES = 12
PARTS = 5
"""VAE, text, image and audio encoder, transformer."""


@dataclass(frozen=True)
class Job:
    """One video to make."""

    config: InferConfig
    image: Path
    audio: Path
    output: Path
    contact_sheet: bool = False
    replayed: Record | None = None
    """The record that is being made again."""


def replay_job(record: Path, output: Path | None, contact_sheet: bool) -> Job:
    """The job of a record; without `output` the video is made again in its own place."""
    made = Record.load(record)
    return Job(made.config, made.image, made.audio, output or made.output, contact_sheet, made)


def run(job: Job) -> str:
    """Loads the model and makes the video of a job: see `make_video`."""
    place = workplace(job.config)
    return make_video(job, place, lambda: load_pipeline(job.config, place.weights, place.device))


class Workplace(NamedTuple):
    """Where the model of a configuration is, and where it works."""

    weights: Weights
    device: torch.device


def workplace(config: InferConfig) -> Workplace:
    """The weights of a configuration and its device.

    Raises:
        InputError: weights are missing, or there is no such device.
    """
    return Workplace(find_weights(config), _device(config))


def make_video(
    job: Job,
    place: Workplace,
    open_pipeline: Callable[[], FantasyTalkingPipeline],
    progress: Callable[[str, float], object] = lambda phase, share: None,
) -> str:
    """Makes the video, its record (.json) and, when wanted, its contact sheet (.sheet.png), all of them or none.

    Args:
        open_pipeline: gives the pipeline of the job's model; called once everything else is known to be in order.
        progress: told the phase ("denoise", "decode") and the share of it that is done.

    Returns:
        one line: path, duration, seconds taken for each second of video.

    Raises:
        InputError: anything given that cannot be used.
    """
    paths = check_outputs(job)
    check_controls(job.config, place.weights)
    record = begin_record(job, place.weights, place.device)
    given = _read(job)
    if job.config.note:
        tell(f"note: {job.config.note}")
    with ExitStack() as outputs, repeatable():
        # Made before the work, so that a place that cannot be written to is told at once.
        video, text, *sheets = (outputs.enter_context(written_whole(path)) for path in paths)
        pipe = open_pipeline()
        begin = time.perf_counter()
        made = _generate(pipe, job.config, given, progress)
        shown = _Shown(pipe.iterate_frames(made.frames, made.num_frames), made.num_frames, bool(sheets), progress)
        media.write_video(video, shown, fps=made.fps, audio=given.sound, sample_rate=SOUND_RATE)
        elapsed = time.perf_counter() - begin
        for sheet in sheets:
            write_sheet(sheet, shown.kept, made.fps)
        record = replace(record, video=hash_file(video))
        result = _result(given, made, elapsed, pipe.motion_normaliser)
        text.write_text(record.as_json(result), encoding="utf-8")
    return _summary(job, result, record.video)


class _Given(NamedTuple):
    """What the video is made from."""

    portrait: Portrait
    samples: NDArray[np.float32]
    """At 16 kHz, for wav2vec2."""
    sound: NDArray[np.float32]
    """At 48 kHz, for the file."""


def _read(job: Job) -> _Given:
    config = job.config
    samples, sound = (
        media.read_audio(job.audio, sample_rate=rate, duration=config.seconds) for rate in (SAMPLE_RATE, SOUND_RATE)
    )
    portrait = frame_portrait(
        media.read_image(job.image),
        parse_sizes(config.sizes),
        fit=config.fit,
        face=config.face,
        least_face=config.least_face,
    )
    return _Given(portrait, samples, sound)


def check_controls(config: InferConfig, weights: Weights) -> None:
    """What the pipeline would refuse too, but before gigabytes are loaded."""
    modules = weights.trained_modules()
    check_speech(modules)
    motion_intensity(modules, config.expression_motion, config.body_motion)
    face_weight(modules, config.face_scale, weights.has_face_encoder)
    distillation = weights.distillation()
    step_count(distillation, config.steps)
    check_followed(distillation, config.guidance, config.negative_prompt)


def begin_record(job: Job, weights: Weights, device: torch.device) -> Record:
    """The record of the video to be made; what differs from a replayed one is told."""
    record = Record.of(job.config, job.image, job.audio, weights, job.output, describe(device))
    if job.replayed is not None:
        torch.set_num_threads(job.replayed.threads)
        record = replace(record, threads=job.replayed.threads)
        for difference in job.replayed.differences(record):
            tell(f"note: {difference}; the video may differ")
    return record


def _generate(
    pipe: FantasyTalkingPipeline, config: InferConfig, given: _Given, progress: Callable[[str, float], object]
) -> FantasyTalkingOutput:
    def tell(_: FantasyTalkingPipeline, step: int, __: Tensor, values: dict[str, Tensor]) -> dict[str, Tensor]:
        progress("denoise", (step + 1) / len(pipe.scheduler.timesteps))
        return values

    return pipe(
        given.portrait,
        given.samples,
        config.prompt,
        config.negative_prompt,
        expression_motion=config.expression_motion,
        body_motion=config.body_motion,
        face_scale=config.face_scale,
        **config.guidance.arguments(),
        num_inference_steps=config.steps,
        fps=config.fps,
        window_frames=config.window_frames,
        overlap_frames=config.overlap_frames,
        generator=torch.Generator().manual_seed(config.seed),
        output_type="latent",
        callback_on_step_end=tell,
    )


def _result(
    given: _Given, made: FantasyTalkingOutput, elapsed: float, normaliser: dict[str, float] | None
) -> dict[str, Any]:
    height, width = given.portrait.pixels.shape[:2]
    return {
        "frames": made.num_frames,
        "fps": made.fps,
        "width": width,
        "height": height,
        "seconds": made.num_frames / made.fps,
        "seconds_taken": round(elapsed, 3),
        "motion_normaliser": normaliser,
    }


def _summary(job: Job, result: dict[str, Any], video: str) -> str:
    line = (
        f"{job.output}: {result['seconds']:.2f} s, {result['width']}x{result['height']}, "
        f"{result['seconds_taken'] / result['seconds']:.1f} s of work for a second of video"
    )
    if job.replayed is None:
        return line
    return line + (", the same bits as recorded" if video == job.replayed.video else ", NOT the same as recorded")


def check_outputs(job: Job) -> list[Path]:
    """The files that will be written: video, record and, when wanted, contact sheet."""
    if job.output.suffix.lower() != ".mp4":
        raise InputError(f"output '{job.output}' does not end in .mp4, the one format that is written")
    paths = [job.output, job.output.with_suffix(".json")]
    if job.contact_sheet:
        paths.append(job.output.with_suffix(".sheet.png"))
    for path in paths:
        if path.is_dir():
            raise InputError(f"output '{path}' is a folder; give another --output")
        if path.resolve() in (job.image.resolve(), job.audio.resolve()):
            raise InputError(f"output '{path}' would overwrite what the video is made from; give another --output")
    return paths


def load_pipeline(config: InferConfig, weights: Weights, device: torch.device) -> FantasyTalkingPipeline:
    """The pipeline of a configuration, on its device.

    Raises:
        InputError: a part is damaged, incomplete or of another kind.
    """
    dtype = getattr(torch, config.precision.value)
    with tqdm(total=PARTS, desc="load", unit=" parts", leave=True) as bar:

        def progress(part: str) -> None:
            bar.set_postfix_str(part)
            bar.update()

        if weights.adapter is None or goes_on_saved(weights.adapter):
            pipe = FantasyTalkingPipeline.from_pretrained(
                weights.base, adapter=weights.adapter, torch_dtype=dtype, progress=progress
            )
        else:
            pipe = FantasyTalkingPipeline.from_base(
                weights.base,
                weights.adapter,
                portrait=asdict(load_model_config(config.model).portrait),
                audio_encoder=weights.audio_encoder,
                face_encoder=weights.face_encoder,
                scheduler=make_scheduler(config.sampler, config.shift),
                text_length=config.text_length,
                torch_dtype=dtype,
                progress=progress,
            )
    apply_savings(pipe.transformer, config.savings, device)
    offload = config.offload
    if config.savings.gpu_gib is not None:
        offload = Offload(choose_offload(pipe.part_bytes(), config.savings.gpu_gib))
    if offload is Offload.model:
        pipe.enable_model_cpu_offload(device=device)
    elif offload is Offload.group:
        pipe.enable_group_offload(onload_device=device, offload_type="leaf_level", use_stream=True)
    else:
        pipe.to(device)
    return pipe


class _Shown:
    """Passes frames on, tells how many, and keeps a few, evenly spread, for the contact sheet."""

    def __init__(
        self,
        frames: Iterable[NDArray[np.uint8]],
        count: int,
        keep: bool,
        progress: Callable[[str, float], object],
    ) -> None:
        self.frames, self.count, self.progress = frames, count, progress
        self.wanted = set(sheet_moments(count)) if keep else set()
        self.kept: dict[int, NDArray[np.uint8]] = {}

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        for number, frame in enumerate(self.frames):
            if number in self.wanted:
                self.kept[number] = frame
            self.progress("decode", (number + 1) / self.count)
            yield frame


def sheet_moments(count: int) -> list[int]:
    """Numbers of the frames that a contact sheet of `count` frames shows, evenly spread."""
    return [int(number) for number in np.linspace(0, count - 1, min(count, SHEET_FRAMES)).round()]


def write_sheet(path: Path, frames: Mapping[int, NDArray[np.uint8]], fps: float) -> None:
    """Writes frames (H, W, 3), by their numbers, as one picture with their times."""
    from fantasytalking.perception.contact_sheet import contact_sheet

    captions = [f"{number / fps:.2f} s" for number in frames]
    media.write_image(path, contact_sheet(list(frames.values()), captions=captions))


def _device(config: InferConfig) -> torch.device:
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise InputError("device is 'cuda', but there is no CUDA device; use device=cpu")
    device = torch.device("cuda" if available and config.device != "cpu" else "cpu")
    if config.savings.gpu_gib is not None and device.type == "cpu":
        raise InputError(f"savings.gpu_gib is {config.savings.gpu_gib:g}, but the device is the CPU; leave it out")
    if config.offload is not Offload.none and device.type == "cpu":
        raise InputError(f"offload is '{config.offload.value}', but the device is the CPU; use offload=none")
    return device


def describe(device: torch.device) -> str:
    """Name of a device, as records hold it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


@contextmanager
def repeatable() -> Iterator[None]:
    """Arithmetic that gives the same bits each time, where PyTorch has it; a warning where it has not."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def tell(line: str) -> None:
    """A line on stderr, where it is in nobody's way."""
    sys.stderr.write(line + "\n")


def default_output(image: Path, audio: Path) -> Path:
    """outputs/IMAGE_AUDIO.mp4."""
    return Path("outputs") / f"{image.stem}_{audio.stem}.mp4"


def check_inputs(image: Path | None, audio: Path | None) -> tuple[Path, Path]:
    """Both are given and are files.

    Raises:
        InputError: one is not.
    """
    for name, path in (("image", image), ("audio", audio)):
        if path is None:
            raise InputError(f"no {name} was given; use --{name} FILE")
        existing_file(path, name)
    assert image is not None and audio is not None
    return image, audio


def quiet() -> None:
    """Leaves the progress bars to us: libraries show one for every file they read."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
