"""The one exception for mistakes of a user, and its way out of a script."""

import sys
from collections.abc import Callable

_DATA = (
    *("PIL", "av", "cv2", "decord", "espeakng_loader", "imageio", "insightface", "jinja2", "markupsafe", "matplotlib"),
    *("mediapipe", "onnx", "onnxruntime", "onnxscript", "scipy"),
)
_EXTRAS = dict.fromkeys(_DATA, "data") | {
    **dict.fromkeys(("deepspeed", "tensorboard", "torchdata", "wandb"), "train"),
    "gradio": "app",
}
"""Packages that only some of the project needs, and the extra of pyproject.toml that brings them."""


class InputError(ValueError):
    """Something given from outside cannot be used. The message names the value, the limit and the cure, on one line."""


def exit_cleanly(main: Callable[[], None]) -> None:
    """Runs a script's `main`: an `InputError` becomes one line on stderr and exit code 2, an interruption code 130.

    A package of an extra that is not installed is told in a line too, exit code 2.
    """
    try:
        main()
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        print(f"error: '{error.name}' is not installed: pip install -e '.[{extra}]'", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        sys.exit(130)
