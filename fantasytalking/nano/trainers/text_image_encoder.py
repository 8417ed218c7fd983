"""Training of nano's text and image encoders, jointly as in CLIP (Radford et al., 2021), on portraits and captions.

Axes: B pairs, T text tokens, I image tokens.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

from fantasytalking.nano.corpora.captions import DEFAULT_CAPTION, make_caption
from fantasytalking.nano.corpora.portrait_images import PortraitImages
from fantasytalking.nano.half_precision import to_half_precision
from fantasytalking.nano.trainers.config import TextImageEncoderTraining
from fantasytalking.portrait_world.people.identity import TRAINING_IDENTITIES, Identity, make_identity

SHARED_EMBEDDING_DIM = 64
PAD_TOKEN, END_TOKEN, UNKNOWN_TOKEN = "<pad>", "</s>", "<unk>"


def train_tokenizer(vocab_size: int, seed: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer on captions of training identities.

    It appends </s> to every text and pads on the right, as T5's tokenizer does.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN_TOKEN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD_TOKEN, END_TOKEN, UNKNOWN_TOKEN],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_all_captions(seed), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END_TOKEN}", special_tokens=[(END_TOKEN, 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD_TOKEN, eos_token=END_TOKEN, unk_token=UNKNOWN_TOKEN
    )


def build_text_encoder(config: TextImageEncoderTraining, dim: int, seed: int) -> UMT5EncoderModel:
    """Returns an untrained umT5 encoder of width `dim`."""
    torch.manual_seed(seed)
    return UMT5EncoderModel(
        UMT5Config(
            vocab_size=config.vocab_size,
            d_model=dim,
            d_kv=dim // config.text_heads,
            d_ff=2 * dim,
            num_layers=config.text_layers,
            num_heads=config.text_heads,
            relative_attention_num_buckets=16,
            relative_attention_max_distance=32,
            dropout_rate=0.0,
        )
    )


def build_image_encoder(config: TextImageEncoderTraining, dim: int, seed: int) -> CLIPVisionModel:
    """Returns an untrained CLIP vision transformer of width `dim`."""
    torch.manual_seed(seed + 1)
    return CLIPVisionModel(
        CLIPVisionConfig(
            hidden_size=dim,
            intermediate_size=2 * dim,
            num_hidden_layers=config.image_layers,
            num_attention_heads=config.image_heads,
            image_size=config.image_size,
            patch_size=config.patch_size,
        )
    )


def build_image_processor(size: int) -> CLIPImageProcessorPil:
    """Returns a processor that resizes to `size` pixels and normalizes with CLIP's mean and standard deviation."""
    return CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


class TextImageEncoderTask:
    """Matching of captions and portraits."""

    name = "text and image encoder"

    def __init__(
        self,
        config: TextImageEncoderTraining,
        tokenizer: PreTrainedTokenizerFast,
        dims: tuple[int, int],
        portrait_images: PortraitImages,
        seed: int,
        device: torch.device,
    ) -> None:
        self.text, self.image = build_text_encoder(config, dims[0], seed), build_image_encoder(config, dims[1], seed)
        heads = {"text": nn.Linear(dims[0], SHARED_EMBEDDING_DIM), "image": nn.Linear(dims[1], SHARED_EMBEDDING_DIM)}
        self._heads, self._scale = nn.ModuleDict(heads), nn.Parameter(torch.tensor(2.0))
        self.model = nn.ModuleDict({"text": self.text, "image": self.image, "heads": self._heads})
        self.model.register_parameter("scale", self._scale)
        self._config, self._tokenizer, self._portrait_images, self._device = config, tokenizer, portrait_images, device
        self._identities = {int(number): make_identity(int(number)) for number in portrait_images.unique_identities}
        self._processor = build_image_processor(config.image_size)

    def loss(self, random: np.random.Generator, step: int) -> Tensor:
        """Returns the symmetric cross-entropy over the pairs of a batch of different people."""
        numbers = self._portrait_images.unique_identities
        people = random.choice(numbers, min(self._config.fit.batch_size, len(numbers)), replace=False)
        logits = self._similarities(people, random)
        targets = torch.arange(len(people), device=logits.device)
        return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2

    @torch.no_grad()
    def retrieval_accuracy(
        self, portrait_images: PortraitImages, seed: int, num_candidates: int = 16, rounds: int = 50
    ) -> dict[str, float]:
        """Returns the accuracy ("matched") of choosing a portrait's caption among those of "of" people.

        Args:
            portrait_images: images of held-out people.
            seed: seed of the random choice of people and captions.
            num_candidates: number of people per round; chance is 1 / `num_candidates`.
            rounds: number of rounds.
        """
        self.model.eval()
        random = np.random.default_rng([seed, 3])
        training_images, self._portrait_images = self._portrait_images, portrait_images
        self._identities |= {int(number): make_identity(int(number)) for number in portrait_images.unique_identities}
        accuracies = []
        for _ in range(rounds):
            people = random.choice(
                portrait_images.unique_identities,
                min(num_candidates, len(portrait_images.unique_identities)),
                replace=False,
            )
            predicted = self._similarities(people, random).argmax(dim=1).cpu().numpy()
            accuracies.append((predicted == np.arange(len(people))).mean())
        self._portrait_images = training_images
        return {
            "matched": float(np.mean(accuracies)),
            "of": min(num_candidates, len(portrait_images.unique_identities)),
        }

    def _similarities(self, identities: Iterable[int], random: np.random.Generator) -> Tensor:
        """Returns scaled similarities (B, B) of portraits (rows) and captions (columns)."""
        indices = [
            int(random.choice(np.flatnonzero(self._portrait_images.identities == number))) for number in identities
        ]
        images = self._embed_images(torch.from_numpy(self._portrait_images.images[indices]))
        texts = self._embed_texts([make_caption(self._identities[int(number)], random) for number in identities])
        scale: Tensor = self._scale.clamp(max=4).exp()
        return scale * images @ texts.T

    def _embed_images(self, images: Tensor) -> Tensor:
        size = (self._config.image_size,) * 2
        pixels = rearrange(images, "b h w c -> b c h w").to(self._device, torch.float32) / 255
        pixels = F.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 1)
        mean = pixels.new_tensor(self._processor.image_mean).view(1, 3, 1, 1)
        deviation = pixels.new_tensor(self._processor.image_std).view(1, 3, 1, 1)
        pooled = self.image(pixel_values=(pixels - mean) / deviation).pooler_output
        return F.normalize(self._heads["image"](pooled).float(), dim=1)

    def _embed_texts(self, captions: list[str]) -> Tensor:
        tokens = self._tokenizer(captions, padding=True, return_tensors="pt").to(self._device)
        states = self.text(tokens.input_ids, tokens.attention_mask).last_hidden_state  # (B, T, D)
        mask = tokens.attention_mask[..., None]
        return F.normalize(self._heads["text"]((states * mask).sum(1) / mask.sum(1)).float(), dim=1)


def save_text_image_encoders(
    text: UMT5EncoderModel,
    image: CLIPVisionModel,
    tokenizer: PreTrainedTokenizerFast,
    image_size: int,
    components: Path,
) -> None:
    """Writes the components text_encoder, tokenizer, image_encoder and image_processor, weights in half precision."""
    to_half_precision(text)
    to_half_precision(image)
    text.save_pretrained(components / "text_encoder")
    tokenizer.save_pretrained(components / "tokenizer")
    image.save_pretrained(components / "image_encoder")
    build_image_processor(image_size).save_pretrained(components / "image_processor")


def _all_captions(seed: int) -> list[str]:
    random = np.random.default_rng([seed, 2])
    people: list[Identity] = [make_identity(number) for number in TRAINING_IDENTITIES]
    return [DEFAULT_CAPTION] * 200 + [make_caption(person, random) for person in people for _ in range(3)]
