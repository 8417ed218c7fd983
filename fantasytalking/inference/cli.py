"""Runs inference from the command line, in one process or in several."""

import sys
from collections.abc import Callable, Sequence

from fantasytalking.common.errors import InputError
from fantasytalking.common.processes import launched_processes
from fantasytalking.common.text import printable
from fantasytalking.inference.arguments import parse_job
from fantasytalking.inference.console import notify
from fantasytalking.inference.context_parallel import Coordinator, init_processes, run_worker
from fantasytalking.inference.generate import generate_video
from fantasytalking.inference.job import STDIO_PATH, GenerationJob
from fantasytalking.inference.model_sources import ResolvedModel, load_pipeline, resolve_model
from fantasytalking.inference.stream import stream_video
from fantasytalking.pipeline import FantasyTalkingPipeline

PipelineLoader = Callable[[GenerationJob, ResolvedModel], FantasyTalkingPipeline]


def run_inference_cli(arguments: Sequence[str], description: str, prog: str | None = None) -> None:
    """Generates the video that the command line describes and prints one line about it.

    Raises:
        InputError: an option or an input cannot be used; of several processes only the first raises it, the others
            exit with code 2.
    """
    if launched_processes() == 1:
        job = parse_job(arguments, description, prog)
        _report(job, run_job(job))
        return
    if init_processes() > 0:
        sys.exit(run_worker())
    coordinator = Coordinator()
    try:
        job = parse_job(arguments, description, prog)
        _report(job, run_job(job, lambda job, model: coordinator.load_pipeline(job, model, job.prompts)))
    except (InputError, SystemExit):
        coordinator.shutdown(2)
        raise
    # After any other error the workers may wait in the middle of a call and would not receive a message; the launcher
    # ends them when this process ends.
    coordinator.shutdown(0)


def load_for_one_job(job: GenerationJob, model: ResolvedModel) -> FantasyTalkingPipeline:
    """Loads a pipeline that follows the prompts of one job; its text encoder is freed before the transformer is loaded.

    Raises:
        InputError: as `load_pipeline`.
    """
    return load_pipeline(job.config, model, job.prompts)


def run_job(job: GenerationJob, load: PipelineLoader = load_for_one_job) -> str:
    """Resolves the model of a job and generates its video; returns one line about it.

    Raises:
        InputError: weights are missing, or an input or a control cannot be used.
    """
    model = resolve_model(job.config, has_driving_video=job.has_driving_video, is_multi_speaker=job.is_multi_speaker)
    generate = stream_video if job.config.stream else generate_video
    return generate(job, model, lambda: load(job, model))


def _report(job: GenerationJob, summary: str) -> None:
    if job.output == STDIO_PATH:
        notify(summary)  # standard output carries the video
    else:
        sys.stdout.write(printable(summary) + "\n")
