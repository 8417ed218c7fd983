"""From the command line to a video, by one process or by several: what scripts/infer.py does."""

import sys
from collections.abc import Callable, Sequence

from fantasytalking.common.errors import InputError
from fantasytalking.inference.cli import parse_job
from fantasytalking.inference.context_parallel import Coordinator, init_processes, launched_world_size, run_worker
from fantasytalking.inference.generate import generate_video, notify
from fantasytalking.inference.job import GenerationJob
from fantasytalking.inference.model_sources import load_pipeline, resolve_model
from fantasytalking.inference.stream import STDIO_PATH, stream_video
from fantasytalking.pipeline.pipeline import FantasyTalkingPipeline


def run_inference_cli(arguments: Sequence[str], description: str, prog: str | None = None) -> None:
    """Makes what the command line asks for and tells so in one line.

    Raises:
        InputError: anything that cannot be used; of several processes the first alone raises it, the others exit with
            code 2.
    """
    if launched_world_size() == 1:
        _generate_and_report(parse_job(arguments, description, prog), lambda _, load: load())
        return
    if init_processes() > 0:
        sys.exit(run_worker())
    leader = Coordinator()
    try:
        _generate_and_report(
            parse_job(arguments, description, prog),
            lambda job, load: leader.load_pipeline(
                job.config, load, has_driving_video=bool(job.driving_videos), is_multi_speaker=job.is_multi_speaker
            ),
        )
    except (InputError, SystemExit):
        leader.shutdown(2)
        raise
    # After any other error the others may be waiting in the middle of a call, and nothing that is sent would reach
    # them; the launcher ends them when this process ends.
    leader.shutdown(0)


def _generate_and_report(
    job: GenerationJob, load: Callable[[GenerationJob, Callable[[], FantasyTalkingPipeline]], FantasyTalkingPipeline]
) -> None:
    place = resolve_model(job.config, has_driving_video=bool(job.driving_videos), is_multi_speaker=job.is_multi_speaker)
    make = stream_video if job.config.stream else generate_video
    line = make(job, place, lambda: load(job, lambda: load_pipeline(job.config, place.files, place.device)))
    if job.output == STDIO_PATH:
        notify(line)  # the video went to standard output
    else:
        sys.stdout.write(line + "\n")
