#!/usr/bin/env python
"""A portrait and speech become a talking video; a video of a face may drive it, with or without speech.

    python scripts/infer.py --image portrait.png --audio speech.wav --motion 0.6
    python scripts/infer.py --config configs/wan14b/infer.yaml --image P --audio A guidance.audio.stop=0.7
    python scripts/infer.py --image P --drive face.mp4          somebody else's expression on the portrait
    python scripts/infer.py --image TWO --audio left.wav --audio right.wav       one sound a face, from the left
    python scripts/infer.py --replay outputs/portrait_speech.json          the same video again, bit for bit
    ffmpeg ... -f wav - | python scripts/infer.py --stream --image P --audio - --output - | ffplay -
    torchrun --nproc-per-node 2 scripts/infer.py --image P --audio A       several processes (GPUs) for one video

Beside the video stands a .json with everything that decided it. Settings: fantasytalking/pipeline/config.py.
"""

import sys

from fantasytalking.common.errors import exit_cleanly


def main() -> None:
    from fantasytalking.inference.console import silence_libraries
    from fantasytalking.inference.cli import run_inference_cli

    silence_libraries()
    run_inference_cli(sys.argv[1:], __doc__)


if __name__ == "__main__":
    exit_cleanly(main)
