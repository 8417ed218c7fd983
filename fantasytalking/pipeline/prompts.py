"""States of prompts: encoded when they are needed, or before, by a text encoder that is no longer in memory.

Axes: T text tokens, D width of the states.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fantasytalking.common.errors import ErrorCode, InputError
from fantasytalking.encoders.wan import TextEncoder, clean_prompt, pad_prompt_embeds

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncodedPrompts:
    """The only prompts that a pipeline without a text encoder can follow."""

    states: Mapping[str, Tensor]
    """(1, T, D) float32 on the CPU, as `encode_text` returns them, by cleaned prompt."""

    @classmethod
    def encode(cls, encoder: TextEncoder, prompts: Iterable[str]) -> "EncodedPrompts":
        """Encodes prompts, each once."""
        sizes = (encoder.max_tokens, encoder.model.config.d_model)
        return cls({text: encode_text(encoder, text, *sizes) for text in dict.fromkeys(map(clean_prompt, prompts))})

    def find(self, prompt: str) -> Tensor:
        """Returns the states of a cleaned prompt.

        Raises:
            InputError: it was not encoded.
        """
        if prompt not in self.states:
            raise InputError(
                f"the prompt '{prompt[:40]}' was not encoded before the text encoder was freed; load the pipeline with "
                "its text encoder",
                code=ErrorCode.unsupported,
                field="prompt",
                value=prompt,
            )
        return self.states[prompt]


def encode_text(encoder: TextEncoder | EncodedPrompts, prompt: str, max_tokens: int, text_dim: int) -> Tensor:
    """Returns the states of a prompt (1, max_tokens, text_dim), padded with zeros as in Wan.

    An empty prompt is zeros throughout, like a dropped prompt in training. A longer prompt is truncated with a warning.

    Raises:
        InputError: the encoder is no longer in memory, and the prompt was not encoded before.
    """
    prompt = clean_prompt(prompt)
    if not prompt:
        return torch.zeros(1, max_tokens, text_dim)
    if isinstance(encoder, EncodedPrompts):
        return encoder.find(prompt)
    tokens = len(encoder.tokenizer(prompt).input_ids)
    if tokens > max_tokens:
        logger.warning(
            "note: the prompt '%.40s...' has %d tokens; the model reads the first %d", prompt, tokens, max_tokens
        )
    return pad_prompt_embeds(encoder.encode(prompt), max_tokens)[None].cpu()


def encode_prompts(
    encoder: TextEncoder | EncodedPrompts,
    prompt: str,
    negative_prompt: str,
    sizes: tuple[int, int],
    device: torch.device | str,
) -> tuple[Tensor, Tensor]:
    """Returns the states (1, T, D) of two prompts, `sizes` (T, D): one object where they are the same."""
    positive, negative = (encode_text(encoder, text, *sizes).to(device) for text in (prompt, negative_prompt))
    return positive, positive if prompt == negative_prompt else negative
