"""From the command line to a video, by one process or by several: what scripts/infer.py does."""

import sys
from collections.abc import Callable, Sequence

from fantasytalking.common.errors import InputError
from fantasytalking.inference.cli import parse
from fantasytalking.inference.context_parallel import Leader, follow, join, launched
from fantasytalking.inference.generate import make_video, tell
from fantasytalking.inference.job import Job
from fantasytalking.inference.model_sources import load_pipeline, workplace
from fantasytalking.inference.stream import PIPE, stream_video
from fantasytalking.pipeline.pipeline import FantasyTalkingPipeline


def start(arguments: Sequence[str], description: str) -> None:
    """Makes what the command line asks for and tells so in one line.

    Raises:
        InputError: anything that cannot be used; of several processes the first alone raises it, the others exit with
            code 2.
    """
    if launched() == 1:
        _report(parse(arguments, description), lambda _, load: load())
        return
    if join() > 0:
        sys.exit(follow())
    leader = Leader()
    try:
        _report(
            parse(arguments, description),
            lambda job, load: leader.open(job.config, load, driven=bool(job.drivers), several=job.several_speak),
        )
    except (InputError, SystemExit):
        leader.dismiss(2)
        raise
    # After any other error the others may be waiting in the middle of a call, and nothing that is sent would reach
    # them; the launcher ends them when this process ends.
    leader.dismiss(0)


def _report(job: Job, load: Callable[[Job, Callable[[], FantasyTalkingPipeline]], FantasyTalkingPipeline]) -> None:
    place = workplace(job.config, driven=bool(job.drivers), several=job.several_speak)
    make = stream_video if job.config.stream else make_video
    line = make(job, place, lambda: load(job, lambda: load_pipeline(job.config, place.weights, place.device)))
    if job.output == PIPE:
        tell(line)  # the video went to standard output
    else:
        sys.stdout.write(line + "\n")
