#!/usr/bin/env python
"""Converts released weights to ours and back, and runs our model on reference files of the released code.

python scripts/convert_official.py IN OUT
    IN  fantasytalking_model.ckpt or .safetensors   OUT  a folder: our adapter
    IN  fantasyportrait_model.ckpt or its flat port OUT  a folder: our adapter
    IN  our adapter folder                          OUT  a .ckpt or .safetensors file: the released format
    IN  a Wan transformer as one .safetensors file  OUT  a folder: diffusers' layout
python scripts/convert_official.py --forward REFERENCE.safetensors OUT.safetensors
    writes prediction, prediction_without_audio and audio_windows; of a portrait reference prediction,
    prediction_without_portrait and, for one person, prediction_padding_attended
"""

import argparse

from safetensors.torch import save_file

from fantasytalking.checkpoints.convert import convert_checkpoint, reference_forward
from fantasytalking.common.errors import exit_cleanly
from fantasytalking.common.files import atomic_write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", metavar="IN", help="file or folder to read")
    parser.add_argument("output", metavar="OUT", help="file or folder to write")
    parser.add_argument("--forward", action="store_true", help="IN is a reference file: run our model on it")
    arguments = parser.parse_args()
    if not arguments.forward:
        print(convert_checkpoint(arguments.input, arguments.output))
        return
    outputs = reference_forward(arguments.input)
    with atomic_write(arguments.output) as temporary:
        save_file({name: value.contiguous() for name, value in outputs.items()}, temporary)
    print(f"wrote {', '.join(outputs)} to '{arguments.output}'")


if __name__ == "__main__":
    exit_cleanly(main)
