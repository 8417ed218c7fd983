"""Runs the preparation within a test, or in separate processes that may be killed."""

import hashlib
import os
import resource
from multiprocessing.context import ForkServerProcess
from multiprocessing.queues import SimpleQueue
from pathlib import Path

from fantasytalking.data.manifest import ClipRecord, Rejection
from fantasytalking.data.prepare.config import PreparationConfig
from fantasytalking.data.prepare.encode import FeatureEncoders
from fantasytalking.data.prepare.preparation import CorpusPreparation
from tests.helpers.fork_server import FORK_SERVER, start_fork_server


class SingleProcess:
    """The only process of a run."""

    process_index, num_processes, is_main_process = 0, 1, True

    def wait_for_everyone(self) -> None:
        pass


def small_config(components: Path, **settings: object) -> PreparationConfig:
    """Settings for portrait-world clips at 64 pixels."""
    values: dict = {"fps": 25.0, "frames": 17, "clip_stride": 1000, "buckets": ["64x64"], **settings}
    config = PreparationConfig(base=str(components), **values)
    config.validate()
    return config


def run_in_process(
    videos: Path, output: Path, config: PreparationConfig, *, check: bool = False
) -> tuple[list[ClipRecord], list[Rejection]]:
    """Prepares; with `check`, after the checks of the output folder that the command makes."""
    import torch

    torch.set_num_threads(config.num_threads)
    preparation = CorpusPreparation(videos, output, config)
    if check:
        preparation.check_output()
    return preparation.run(SingleProcess(), FeatureEncoders.load(config, torch.device("cpu")))


def _run(videos: Path, output: Path, config: PreparationConfig, environment: dict[str, str]) -> None:
    import torch

    from fantasytalking.common.processes import connect_processes
    from fantasytalking.data.prepare.preparation import prepare_corpus

    os.environ.update(environment)
    state = connect_processes(cpu=False)
    prepare_corpus(videos, output, config, state, torch.device("cpu"))
    state.destroy_process_group()


def measure_memory(videos: Path, output: Path, config: PreparationConfig, answer: SimpleQueue) -> None:
    """Prepares and returns the peak memory of this process in MiB."""
    _run(videos, output, config, {})
    answer.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def start_preparation(
    videos: Path, output: Path, config: PreparationConfig, environment: dict[str, str] | None = None
) -> ForkServerProcess:
    """Starts a process that prepares; the fork server has done the imports."""
    start_fork_server()
    process = FORK_SERVER.Process(target=_run, args=(videos, output, config, environment or {}))
    process.start()
    return process


def wait_for_processes(*processes: ForkServerProcess) -> None:
    for process in processes:
        process.join(200)
        assert process.exitcode == 0, f"exit code {process.exitcode}"


def file_hashes(folder: Path) -> dict[str, str]:
    """Hashes of the contents of all files below a folder, by path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
