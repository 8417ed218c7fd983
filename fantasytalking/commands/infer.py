"""`fantasytalking infer`: generates a talking video."""

from collections.abc import Sequence

from fantasytalking.commands.invocation import Invocation

DESCRIPTION = """Generates a talking video from a portrait and speech, or from a video that drives the portrait.

    {command} --image portrait.png --audio speech.wav --motion 0.6
    {command} --config configs/wan14b/infer.yaml --image P --audio A guidance.audio.stop=0.7
    {command} --image P --driving-video face.mp4          another person's expression on the portrait
    {command} --image TWO --audio left.wav --audio right.wav       one recording per face, from the left
    {command} --reproduce outputs/portrait_speech.json          the same video again, bit for bit
    ffmpeg ... -f wav - | {command} --stream --image P --audio - --output - | ffplay -
    torchrun --nproc-per-node 2 {target} --image P --audio A       several processes (GPUs) for one video

A .json beside the video records everything that determined it. Settings: fantasytalking/inference/config.py.
"""


def main(arguments: Sequence[str], invocation: Invocation) -> None:
    """Parses the arguments and generates the video."""
    from fantasytalking.inference.cli import run_inference_cli
    from fantasytalking.inference.console import silence_libraries

    silence_libraries()
    run_inference_cli(arguments, invocation.describe(DESCRIPTION), invocation.prog)
