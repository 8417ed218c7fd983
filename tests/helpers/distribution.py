"""Which files of tests run in one process when several processes share them, and in which order."""

from xdist.scheduler import LoadFileScheduling

TOGETHER = {
    "tests/app/": "the page's server",
    "tests/common/test_processes.py": "the fork server",
    "tests/data/prepare/test_preparation.py": "the fork server",
    "tests/evaluation/": "the fork server",  # all share one rendered world as well
    "tests/inference/test_context_parallel_inference.py": "the fork server",
    "tests/inference/test_generate.py": "the fork server",
    "tests/models/test_context_parallel.py": "the fork server",
    "tests/portrait_world/corpus/test_clip_corpus.py": "the fork server",
    "tests/training/test_interruptions.py": "the fork server",
    "tests/training/test_kill_and_resume.py": "the fork server",
    "tests/training/test_trackers.py": "the fork server",
    "tests/training/test_validation_sampler.py": "the fork server",
}
"""What files share that takes seconds to start. Other files are units of their own."""
LONGEST_FIRST = (
    "the fork server",
    "the page's server",
    *("tests/training/", "tests/data/", "tests/inference/", "tests/nano/", "tests/perception/"),
    *("tests/pipeline/", "tests/portrait_world/", "tests/media/", "tests/models/", "tests/encoders/", "tests/"),
)
"""Units that begin so: the last ones of a run are short, so that the processes end together."""


def unit_of(nodeid: str) -> str:
    """Returns the name of the unit that a test belongs to; its tests run in one process, one after the other."""
    return next((unit for start, unit in TOGETHER.items() if nodeid.startswith(start)), nodeid.split("::", 1)[0])


def position(nodeid: str) -> int:
    """Returns where the unit of a test stands among all."""
    unit = unit_of(nodeid)
    return next((number for number, start in enumerate(LONGEST_FIRST) if unit.startswith(start)), len(LONGEST_FIRST))


class UnitScheduling(LoadFileScheduling):
    """As `--dist loadfile`, except that some files belong together."""

    def _split_scope(self, nodeid: str) -> str:
        return unit_of(nodeid)
