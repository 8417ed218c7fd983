"""`fantasytalking convert`: converts released weights to adapters and back."""

from collections.abc import Sequence

from fantasytalking.commands.invocation import Invocation

DESCRIPTION = """Converts released weights to adapters and back; runs the model on reference files of the released code.

{command} IN OUT
    IN  fantasytalking_model.ckpt or .safetensors   OUT  a folder: an adapter
    IN  fantasyportrait_model.ckpt or its flat port OUT  a folder: an adapter
    IN  an adapter folder                           OUT  a .ckpt or .safetensors file: the released format
    IN  a Wan transformer as one file (also .gguf)  OUT  a folder: diffusers' layout
{command} --forward REFERENCE.safetensors OUT.safetensors
    writes prediction, prediction_without_audio and audio_windows; for a portrait reference prediction,
    prediction_without_portrait and, for one person, prediction_padding_attended
"""


def main(arguments: Sequence[str], invocation: Invocation) -> None:
    """Parses the arguments, converts, and prints what was written."""
    parser = invocation.parser(DESCRIPTION)
    parser.add_path("input", metavar="IN", help="file or folder to read")
    parser.add_path("output", metavar="OUT", help="file or folder to write")
    parser.add_argument("--forward", action="store_true", help="IN is a reference file: run the model on it")
    given = parser.parse_args(arguments)

    from safetensors.torch import save_file

    from fantasytalking.common.files import check_has_stem, check_utf8_path
    from fantasytalking.common.tensor_io import PICKLE_SUFFIXES

    check_utf8_path(given.input, "IN")
    check_utf8_path(given.output, "OUT")
    check_has_stem(given.output, [*PICKLE_SUFFIXES, ".safetensors"], "OUT")

    from fantasytalking.checkpoints.convert import convert_checkpoint, reference_forward
    from fantasytalking.common.files import atomic_write

    if not given.forward:
        print(convert_checkpoint(given.input, given.output))
        return
    outputs = reference_forward(given.input)
    with atomic_write(given.output) as temporary:
        save_file({name: value.contiguous() for name, value in outputs.items()}, temporary)
    print(f"wrote {', '.join(outputs)} to '{given.output}'")
