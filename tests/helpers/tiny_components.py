"""A whole components folder with tiny random weights, as `hf download` would leave a real one: for tests and trials.

python tests/helpers/tiny_components.py FOLDER
"""

import sys
from pathlib import Path

import onnx
import torch
from diffusers import AutoencoderKLWan
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
)

TEXT_DIM, IMAGE_DIM, AUDIO_DIM = 32, 32, 768


def build_components(folder: Path, audio_dim: int = AUDIO_DIM) -> Path:
    """Writes vae, text_encoder, tokenizer, image_encoder, image_processor, audio_encoder and face_encoder."""
    tiny_vae().save_pretrained(folder / "vae")
    tiny_text_encoder().save_pretrained(folder / "text_encoder")
    tiny_tokenizer().save_pretrained(folder / "tokenizer")
    tiny_image_encoder().save_pretrained(folder / "image_encoder")
    size = {"height": 32, "width": 32}
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder / "image_processor")
    tiny_audio_model(audio_dim).save_pretrained(folder / "audio_encoder")
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder / "audio_encoder")
    export_face_network(folder / "face_encoder" / "tiny.onnx")
    return folder


def tiny_vae() -> AutoencoderKLWan:
    torch.manual_seed(0)
    return AutoencoderKLWan(base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)


def tiny_text_encoder() -> UMT5EncoderModel:
    torch.manual_seed(1)
    config = UMT5Config(vocab_size=260, d_model=TEXT_DIM, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
    return UMT5EncoderModel(config)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, then </s>, padded on the right, like T5's."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate(["<pad>", "</s>", "<unk>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def tiny_image_encoder() -> CLIPVisionModel:
    torch.manual_seed(2)
    config = CLIPVisionConfig(
        hidden_size=IMAGE_DIM,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
    )
    return CLIPVisionModel(config)


def tiny_audio_model(dim: int = AUDIO_DIM, layers: int = 2) -> Wav2Vec2Model:
    """wav2vec2-base with its stride and receptive field, but 32 convolution channels and `layers` layers."""
    torch.manual_seed(3)
    config = Wav2Vec2Config(
        hidden_size=dim,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=64,
        conv_dim=(32,) * 7,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
    )
    return Wav2Vec2Model(config)


class TinyFaceNetwork(nn.Module):
    """(B, 3, 112, 112) to (B, 512), as ArcFace networks are."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=4),
            nn.PReLU(8),
            nn.Conv2d(8, 16, 3, stride=3),
            nn.PReLU(16),
            nn.AdaptiveAvgPool2d(3),
        )
        self.head = nn.Linear(16 * 9, 512)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.convolutions(image).flatten(1))


def tiny_face_network() -> TinyFaceNetwork:
    torch.manual_seed(4)
    return TinyFaceNetwork().eval()


def export_face_network(path: Path) -> None:
    """Writes `tiny_face_network` as one .onnx file with inputs and outputs named as insightface's.

    The graph is written down: torch's exporter traces for a second to find these seven nodes.
    """
    weights = {name: value.numpy() for name, value in tiny_face_network().state_dict().items()}
    for name in ("convolutions.1.weight", "convolutions.3.weight"):
        weights[name] = weights[name].reshape(1, -1, 1, 1)
    node = helper.make_node
    nodes = [
        node("Conv", ["input.1", "convolutions.0.weight", "convolutions.0.bias"], ["a"], strides=[4, 4]),
        node("PRelu", ["a", "convolutions.1.weight"], ["b"]),
        node("Conv", ["b", "convolutions.2.weight", "convolutions.2.bias"], ["c"], strides=[3, 3]),
        node("PRelu", ["c", "convolutions.3.weight"], ["d"]),
        node("AveragePool", ["d"], ["e"], kernel_shape=[3, 3], strides=[3, 3]),
        node("Flatten", ["e"], ["f"]),
        node("Gemm", ["f", "head.weight", "head.bias"], ["683"], transB=1),
    ]
    inputs, outputs = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)]
        for name, shape in (("input.1", [1, 3, 112, 112]), ("683", [1, 512]))
    )
    values = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "tiny_face_network", inputs, outputs, values)
    path.parent.mkdir(parents=True, exist_ok=True)
    opset = helper.make_opsetid("", 20)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=10), path)


if __name__ == "__main__":
    build_components(Path(sys.argv[1]))
