"""`fantasytalking demo`: generates the demonstration video from the portrait and speech that ship with the package."""

from collections.abc import Sequence
from pathlib import Path

from fantasytalking.commands.invocation import Invocation

DESCRIPTION = """Generates the demonstration video with nano: outputs/demo.mp4, its record demo.json and demo.sheet.png.

    {command}
    {command} --output talking.mp4 num_inference_steps=10

Needs the folder checkpoints/nano, which is in the repository, or base=FOLDER.
"""


def main(arguments: Sequence[str], invocation: Invocation) -> None:
    """Parses the arguments and generates the video."""
    from fantasytalking.commands import infer
    from fantasytalking.common.resources import resource_path

    parser = invocation.parser(DESCRIPTION)
    parser.add_path("--output", default=Path("outputs/demo.mp4"), help="the video, .mp4")
    parser.add_settings("inference settings, as in base=FOLDER")
    given = parser.parse_intermixed_args(arguments)
    inputs = ["--image", str(resource_path("data/demo/portrait.png"))]
    inputs += ["--audio", str(resource_path("data/demo/speech.wav"))]
    infer.main([*inputs, f"--output={given.output}", "--contact-sheet", *given.overrides], invocation)
