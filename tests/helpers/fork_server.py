"""Processes for tests that kill them or run several: they begin with the imports done, once for all tests of a run.

The list is one, since Python has one fork server and the last list that it is given counts.
"""

from multiprocessing import get_context

FORK_SERVER = get_context("forkserver")
FORK_SERVER.set_forkserver_preload(
    ["fantasytalking.training.trainer", "fantasytalking.data.prepare.preparation", "fantasytalking.pipeline.pipeline"]
)
