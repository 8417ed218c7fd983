"""Values that begin with a dash, which argparse takes for options."""

import pytest

from fantasytalking.cli import main_of
from fantasytalking.commands.invocation import Invocation
from fantasytalking.common.command_parser import CommandParser
from fantasytalking.common.errors import InputError
from fantasytalking.inference.arguments import parse_job


def parser() -> CommandParser:
    made = CommandParser("command", None)
    made.add_argument("--image", "-i")
    made.add_argument("--audio", action="append")
    made.add_argument("rest", nargs="*")
    return made


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        (["--image", "-x.png"], "--image=-x.png"),
        (["--audio", "a.wav", "--audio", "--b.wav", "c=1"], "--audio=--b.wav"),
        (["-i", "-x.png"], "-i=-x.png"),
        (["--image", "--audio", "a.wav"], None),
        (["--image"], None),
        (["--image", "--audio=a.wav"], None),
    ],
)
def test_the_cure_is_named(arguments: list[str], cure: str | None) -> None:
    for parse in (parser().parse_args, parser().parse_intermixed_args):
        with pytest.raises(InputError, match="expected one argument") as error:
            parse(arguments)
        assert f"write {cure} " in str(error.value) if cure else "write" not in str(error.value)


def test_every_command_names_the_cure() -> None:
    with pytest.raises(InputError, match="write --image=-x"):
        parse_job(["--image", "-x.png", "--audio", "a.wav"], "")
    for command, option in (("preview", "--input"), ("train", "--config"), ("evaluate", "--references")):
        with pytest.raises(InputError, match=f"write {option}=-x "):
            main_of(command)([option, "-x"], Invocation.of_command(command))
