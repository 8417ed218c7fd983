"""The one exception for mistakes of a user, and its way out of a script."""

import sys
from collections.abc import Callable


class InputError(ValueError):
    """Something given from outside cannot be used. The message names the value, the limit and the cure, on one line."""


def exit_cleanly(main: Callable[[], None]) -> None:
    """Runs a script's `main`: an `InputError` becomes one line on stderr and exit code 2, an interruption code 130."""
    try:
        main()
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)  # noqa: T201
        sys.exit(130)
