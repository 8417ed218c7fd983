"""How a command was called, so that its help shows the same call."""

from typing import NamedTuple

from fantasytalking.common.command_parser import CommandParser


class Invocation(NamedTuple):
    """The names of a command in its help."""

    prog: str
    """As in usage lines and errors: "fantasytalking infer" or "infer.py"."""
    command: str
    """What a user types: "fantasytalking infer" or "python scripts/infer.py"."""
    target: str
    """What follows `accelerate launch` or `torchrun`: "-m fantasytalking infer" or "scripts/infer.py"."""

    @classmethod
    def of_command(cls, name: str) -> "Invocation":
        """A call of the console command."""
        return cls(f"fantasytalking {name}", f"fantasytalking {name}", f"-m fantasytalking {name}")

    @classmethod
    def of_script(cls, file: str) -> "Invocation":
        """A call of scripts/`file`."""
        return cls(file, f"python scripts/{file}", f"scripts/{file}")

    def describe(self, text: str) -> str:
        """Returns a description with {command} and {target} replaced."""
        return text.format(command=self.command, target=self.target)

    def parser(self, description: str) -> CommandParser:
        """Returns a parser that shows `description`, formatted as it is written."""
        return CommandParser(self.prog, self.describe(description))
