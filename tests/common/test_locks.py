"""One run per output folder: the lock says who holds it, and ends with its process."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fantasytalking.common import locks
from fantasytalking.common.errors import ErrorCode
from fantasytalking.common.locks import RUN_LOCK_FILE, lock_output, try_lock
from tests.helpers.errors import raises_input_error
from tests.helpers.limits import small_disk, without_permissions
from tests.helpers.paths import ROOT

HOLD = """
import os, sys, time
from pathlib import Path
from fantasytalking.common.locks import lock_output
with lock_output(Path(sys.argv[1])):
    if sys.argv[2] != "worker" or os.fork() == 0:
        print(os.getpid(), flush=True)
    time.sleep(100)
"""


def test_a_second_run_is_told_who_holds_the_folder(tmp_path: Path):
    folder = tmp_path / "run"
    with lock_output(folder):
        with raises_input_error(ErrorCode.output_exists, "output", str(folder)) as caught, lock_output(folder):
            pytest.fail("two runs")
        assert re.search(rf"process {os.getpid()} on \S+ since \d{{4}}-\d\d-\d\d \d\d:\d\d", str(caught.value))
        (folder / "result").touch()
    assert [path.name for path in folder.iterdir()] == ["result"]
    with lock_output(folder), lock_output(folder, hold=False):
        assert (folder / RUN_LOCK_FILE).is_file()


def test_a_run_that_leaves_nothing_leaves_no_folder(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), lock_output(tmp_path / "new" / "run"):
        _ = 1 / 0
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    with lock_output(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").is_dir(), "a folder that was there stays"


@pytest.mark.parametrize("with_worker", [False, True])
def test_a_killed_run_frees_the_folder_even_if_a_worker_outlives_it(with_worker: bool, tmp_path: Path):
    command = [sys.executable, "-c", HOLD, str(tmp_path), "worker" if with_worker else "alone"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as run:
        assert run.stdout is not None
        worker = int(run.stdout.readline())
        with raises_input_error(ErrorCode.output_exists) as caught, lock_output(tmp_path):
            pass
        assert f"process {run.pid} " in str(caught.value)
        run.send_signal(signal.SIGKILL)
        run.wait()
        try:
            with lock_output(tmp_path):
                pass
        finally:
            if with_worker:
                os.kill(worker, signal.SIGKILL)


def test_a_file_of_a_dead_or_unknown_holder_does_not_matter(tmp_path: Path):
    (tmp_path / RUN_LOCK_FILE).write_text("{")
    with lock_output(tmp_path):
        pass
    lock = try_lock(tmp_path / RUN_LOCK_FILE)
    assert lock is not None
    with raises_input_error(ErrorCode.output_exists) as caught, lock_output(tmp_path):
        pass
    assert "in use by another run" in str(caught.value)
    lock.release()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path):
    tmp_path.chmod(0o755)
    with without_permissions():
        for folder in (tmp_path, tmp_path / "new"):
            with raises_input_error(ErrorCode.output_exists, "output", str(folder)), lock_output(folder):
                pass
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with raises_input_error(ErrorCode.output_exists, "output") as caught, lock_output(folder):
            pass
        assert "a part of the path is a file" in str(caught.value)
    with (
        small_disk(tmp_path / "disk", 64, "ro") as disk,
        raises_input_error(ErrorCode.output_exists, "output"),
        lock_output(disk),
    ):
        pass


def test_a_file_system_without_locks_is_told_and_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def no_locks(*_: object) -> None:
        raise OSError(locks.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks.fcntl, "flock", no_locks)
    with lock_output(tmp_path):
        pass
    assert "has no locks; do not start two runs" in caplog.text
