"""Defines the exception for invalid input, and how commands report it."""

import io
import os
import select
import signal
import sys
from collections.abc import Callable
from enum import StrEnum
from typing import Any, NoReturn

from fantasytalking.common.os_errors import describe_os_error
from fantasytalking.common.resources import IS_INSTALLED
from fantasytalking.common.termination import Terminated, die_with_launcher, raise_on_termination
from fantasytalking.common.text import printable

_DATA_PACKAGES = (
    *("PIL", "av", "cv2", "decord", "espeakng_loader", "imageio", "insightface", "jinja2", "markupsafe", "matplotlib"),
    *("mediapipe", "onnx", "onnxruntime", "onnxscript", "scipy"),
)
_PACKAGE_EXTRAS = dict.fromkeys(_DATA_PACKAGES, "data") | {
    **dict.fromkeys(("deepspeed", "tensorboard", "torchdata", "wandb"), "train"),
    "gguf": "gguf",
    "gradio": "app",
    "torchao": "quantization",
}
"""Optional packages and the extra of pyproject.toml that installs each."""


class ErrorCode(StrEnum):
    """What kind of mistake an `InputError` reports."""

    missing_file = "missing_file"
    """A file or folder does not exist, or is not of the expected kind (a folder in place of a file)."""
    missing_weights = "missing_weights"
    """Weights or a component are not on this machine; the message says how to get them."""
    missing_value = "missing_value"
    """A required value or input was not given."""
    unknown_key = "unknown_key"
    """A key, name or option does not exist."""
    invalid_type = "invalid_type"
    """A value has the wrong type or cannot be parsed."""
    invalid_choice = "invalid_choice"
    """A value is none of the allowed ones."""
    out_of_range = "out_of_range"
    """A number, length or size lies outside its limits."""
    malformed_file = "malformed_file"
    """A file can be opened, but its content is damaged, incomplete or of another format."""
    unreadable_media = "unreadable_media"
    """An image, video or audio file cannot be decoded, or holds nothing that can be used."""
    shape_mismatch = "shape_mismatch"
    """Tensors or arrays are missing, unexpected, or have other shapes than the model."""
    conflict = "conflict"
    """Two values that were given exclude each other, or do not fit together."""
    not_trained = "not_trained"
    """The model has no trained module for what was requested."""
    unsupported = "unsupported"
    """The model, device or package cannot do what was requested."""
    output_exists = "output_exists"
    """An output cannot be written, would overwrite something, or belongs to another run."""
    insufficient_resources = "insufficient_resources"
    """There is not enough memory, disk space or time."""
    no_face = "no_face"
    """No face, or not the required number of faces, was found."""


class InputError(ValueError):
    """Reports input that cannot be used.

    Args:
        message: names the value, the limit and the cure, in this order, on one line.
        code: the kind of mistake.
        field: the configuration key, option, argument or file entry that is wrong.
        value: the value that was refused.
    """

    def __init__(
        self, message: str, *, code: ErrorCode | None = None, field: str | None = None, value: object = None
    ) -> None:
        super().__init__(message)
        self.code, self.field, self.value = code, field, value

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_input_error, (str(self), self.code, self.field, self.value)


class ReportedElsewhereError(InputError):
    """An error that the main process of several reports; raised on the others, which end without repeating it."""


def _rebuild_input_error(message: str, code: ErrorCode | None, field: str | None, value: object) -> InputError:
    return InputError(message, code=code, field=field, value=value)


def install_command(extra: str) -> str:
    """Returns the command that installs an extra: of the clone, or of an installed package."""
    return f"pip install 'fantasytalking[{extra}]'" if IS_INSTALLED else f"pip install -e '.[{extra}]'"


def exit_cleanly(main: Callable[[], None]) -> None:
    """Runs the `main` of a command and reports expected errors in one line on stderr.

    An `InputError`, an optional package that is not installed, or a file or disk that cannot be used exits with code 2,
    on processes that need not report it silently; an interruption with code 130 (Ctrl-C) or 128 + signal. Names that
    the terminal cannot show are escaped. A process that `accelerate launch` or torchrun started ends with it.
    """
    die_with_launcher()
    _prepare_streams()
    try:
        with raise_on_termination():
            main()
            sys.stdout.flush()
    except ReportedElsewhereError:
        sys.exit(2)
    except InputError as error:
        _exit_with_line(str(error))
    except ModuleNotFoundError as error:
        extra = _PACKAGE_EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        _exit_with_line(f"'{error.name}' is not installed: {install_command(extra)}")
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _is_stdout_closed():
            sys.exit(128 + signal.SIGPIPE)  # its reader has seen enough, as with | head
        reason = describe_os_error(error.errno)
        if reason is None:
            raise
        _exit_with_line(reason if error.filename is None else f"'{os.fsdecode(error.filename)}': {reason}")
    except Terminated as error:
        print("terminated", file=sys.stderr)  # noqa: T201
        sys.exit(128 + error.signal_number)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        sys.exit(130)


def _exit_with_line(message: str) -> NoReturn:
    print(f"error: {printable(' '.join(message.split()))}", file=sys.stderr)  # noqa: T201
    sys.exit(2)


def _prepare_streams() -> None:
    """Lets standard output and error take any text, also where they were closed (>&-)."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (as long as the process)
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _is_stdout_closed() -> bool:
    """Whether nobody reads stdout any more; what is left for it is dropped, since Python would report it at exit."""
    reader = select.poll()
    reader.register(sys.stdout.fileno(), 0)
    closed = any(event & select.POLLERR for _, event in reader.poll(0))
    if closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return closed
