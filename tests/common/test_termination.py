"""A command that is terminated cleans up, and one whose launcher dies does not outlive it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fantasytalking.common.errors import InputError, exit_cleanly
from fantasytalking.common.files import atomic_write
from fantasytalking.common.termination import _is_launcher
from tests.helpers.paths import ROOT

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
WORKER = """
import os, time
from fantasytalking.common.errors import exit_cleanly
def work():
    print(os.getpid(), flush=True)
    time.sleep(60)
exit_cleanly(work)
"""
LAUNCHER = f"""
import subprocess, sys
subprocess.run([sys.executable, "-c", {WORKER!r}])
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_terminated_command_removes_what_is_unfinished(
    number: signal.Signals, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("WORLD_SIZE", raising=False)

    def work() -> None:
        with atomic_write(tmp_path / "video.mp4") as temporary:
            temporary.write_text("part")
            os.kill(os.getpid(), number)
            pytest.fail("the signal was ignored")

    outside = signal.signal(number, signal.SIG_DFL)  # under nohup, SIGHUP is ignored
    try:
        with pytest.raises(SystemExit) as ended:
            exit_cleanly(work)
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, outside)
    assert ended.value.code == 128 + number
    assert capsys.readouterr().err == "terminated\n"
    assert not list(tmp_path.iterdir())


def test_a_signal_that_is_ignored_stays_ignored(capsys: pytest.CaptureFixture[str]):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        exit_cleanly(lambda: os.kill(os.getpid(), signal.SIGHUP))
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("name", "dies"), [("torchrun", True), ("accelerate", True), ("nightly_jobs", False)])
def test_a_process_dies_with_its_launcher_and_with_nothing_else(name: str, dies: bool, tmp_path: Path):
    script = tmp_path / name
    script.write_text(LAUNCHER)
    launcher = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, env=ENVIRONMENT)
    assert launcher.stdout is not None
    worker = int(launcher.stdout.readline())
    launcher.kill()
    launcher.wait()
    deadline = time.monotonic() + (10 if dies else 0.3)
    while is_running(worker) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert is_running(worker) != dies
    if not dies:
        os.kill(worker, signal.SIGKILL)
    launcher.stdout.close()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("/venv/bin/python /venv/bin/accelerate launch train.py", True),
        ("/venv/bin/python3.11 -X dev -m accelerate.commands.launch train.py", True),
        ("python -m torch.distributed.run train.py", True),
        ("/venv/bin/torchrun train.py", True),
        ("python -u /venv/bin/torchrun train.py", True),
        ("python -m pytest tests/accelerate", False),
        ("python train.py accelerate", False),
        ("bash accelerate", False),
        ("tmux new accelerate", False),
        ("python -c accelerate", False),
        ("python", False),
        ("", False),
    ],
)
def test_launchers_are_told_from_other_programs(command: str, expected: bool):
    assert _is_launcher(command.split()) is expected


def test_what_the_system_refuses_is_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    name = tmp_path / ("n" * 300)
    with pytest.raises(SystemExit) as ended:
        exit_cleanly(lambda: name.read_text())  # type: ignore[arg-type, return-value]
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: '{name}': File name too long; choose a shorter name\n"
    with pytest.raises(FileNotFoundError):  # a fault of the program
        exit_cleanly(lambda: (tmp_path / "absent").read_text())  # type: ignore[arg-type, return-value]


def test_what_a_terminal_cannot_show_is_escaped(capsys: pytest.CaptureFixture[str]):
    def refuse() -> None:
        sys.stdout.write("lat\udce9\n")
        raise InputError("lat\udce9 \x1b[31m 東京")

    with pytest.raises(SystemExit):
        exit_cleanly(refuse)
    captured = capsys.readouterr()
    assert captured.out == "lat\\udce9\n"
    assert captured.err == "error: lat\\udce9 \\x1b[31m 東京\n"
