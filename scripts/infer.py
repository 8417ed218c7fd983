#!/usr/bin/env python
"""Generates a talking video from a portrait and speech; a video of a face may drive it, with or without speech.

    python scripts/infer.py --image portrait.png --audio speech.wav --motion 0.6
    python scripts/infer.py --config configs/wan14b/infer.yaml --image P --audio A guidance.audio.stop=0.7
    python scripts/infer.py --image P --driving-video face.mp4             another face's expression on the portrait
    python scripts/infer.py --image TWO --audio left.wav --audio right.wav       one audio per face, from the left
    python scripts/infer.py --reproduce outputs/portrait_speech.json       the same video again, bit for bit
    ffmpeg ... -f wav - | python scripts/infer.py --stream --image P --audio - --output - | ffplay -
    torchrun --nproc-per-node 2 scripts/infer.py --image P --audio A       several processes (GPUs) for one video

A .json beside the video records everything that determined it. Settings: fantasytalking/pipeline/config.py.
"""

import sys

from fantasytalking.common.errors import exit_cleanly


def main() -> None:
    from fantasytalking.inference.cli import run_inference_cli
    from fantasytalking.inference.console import silence_libraries

    silence_libraries()
    run_inference_cli(sys.argv[1:], __doc__)


if __name__ == "__main__":
    exit_cleanly(main)
