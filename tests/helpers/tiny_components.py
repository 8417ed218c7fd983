"""A whole components folder with tiny random weights, as `hf download` would leave a real one: for tests and trials.

python tests/helpers/tiny_components.py FOLDER
"""

import sys
import warnings
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
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
    """Writes `tiny_face_network` as one .onnx file with inputs and outputs named as insightface's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            tiny_face_network(),
            (torch.zeros(1, 3, 112, 112),),
            str(path),
            input_names=["input.1"],
            output_names=["683"],
            dynamo=True,
            external_data=False,
            verbose=False,
        )


if __name__ == "__main__":
    build_components(Path(sys.argv[1]))
