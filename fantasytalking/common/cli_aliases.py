"""Command line options that were renamed. Old options keep working for one release, each with a warning."""

import argparse
import logging
from collections.abc import Sequence
from typing import Any

logger = logging.getLogger(__name__)


class _RenamedOption(argparse.Action):
    """Passes the values of an old option to the action of the new one."""

    def __init__(self, option_strings: Sequence[str], dest: str, new_action: argparse.Action) -> None:
        super().__init__(
            option_strings,
            dest,
            nargs=new_action.nargs,
            type=new_action.type,  # type: ignore[arg-type]  # the stub lets an action have a name as its type
            choices=new_action.choices,
            default=argparse.SUPPRESS,
            help=argparse.SUPPRESS,
            metavar=new_action.metavar,
        )
        self.new_action = new_action

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        new_option = self.new_action.option_strings[0]
        logger.warning(
            "option %s was renamed to %s; the old name works for one more release", option_string, new_option
        )
        self.new_action(parser, namespace, values, new_option)
        # A required option that was given under its old name is not missing.
        self.new_action.required = False


def add_argument_with_alias(
    parser: argparse.ArgumentParser, option: str, old_option: str, **settings: Any
) -> argparse.Action:
    """Adds `option`, which may also be given as `old_option`.

    The old option is not listed in the help. Its value is stored under the destination of the new one; when both are
    given, the last one on the command line counts.

    Args:
        option: name of the option, such as "--num-processes".
        old_option: name of the option in earlier releases, such as "--processes".
        settings: keyword arguments of `argparse.ArgumentParser.add_argument`.

    Returns:
        the action of the new option.
    """
    action = parser.add_argument(option, **settings)
    parser.add_argument(old_option, dest=action.dest, action=_RenamedOption, new_action=action)
    return action
