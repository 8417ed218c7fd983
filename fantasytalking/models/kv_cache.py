"""Projections of the constant conditions: computed once for a video, reused over steps and guidance branches.

Text, portrait, audio and face do not change while a video is denoised; neither do the tokens, keys and values made of
them. They are found again by the identity of the tensor they were made of, so guidance branches that share a prompt or
a portrait share its keys and values too.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from fantasytalking.common.errors import InputError

KeyValue = tuple[Tensor, Tensor]
"""Key and value, each (B, tokens, heads, head_dim)."""


class ConditionTokens(NamedTuple):
    """Conditions as the blocks read them."""

    text: Tensor
    """(B, T, dim)."""
    image: Tensor | None
    """(B, I, dim)."""
    audio: Tensor
    """(B, W, L, audio_token_dim)."""
    face: Tensor
    """(B, N, face_token_dim)."""
    expression: Tensor | None
    """(B, W, P K, expression_token_dim), K tokens in each person's window; None where nothing drives by expression."""


class KeysValues(NamedTuple):
    """Keys and values of one block; None where they are not computed yet (or where there is no such condition)."""

    text: KeyValue | None = None
    image: KeyValue | None = None
    audio: KeyValue | None = None
    """Windows folded into the batch: (B W, L, heads, head_dim)."""
    face: KeyValue | None = None
    expression: KeyValue | None = None
    """Windows folded into the batch: (B W, P K, heads, head_dim)."""


class ConditionKVCache:
    """Holds what one video's constant conditions were projected to. Pass the same one at every denoising step.

    It is only for inference: what it holds was computed with the weights as they were, and carries no gradient. The
    tensors it was filled from must be passed again as the same objects and not be written to.

    Args:
        capacity: different tensors remembered for one condition; a guided video has two prompts and one of the rest.
    """

    def __init__(self, capacity: int = 8) -> None:
        self.capacity = capacity
        self._tokens: dict[str, dict[int, tuple[Tensor, Tensor]]] = {}
        self._keys_values: dict[tuple[int, str], dict[int, tuple[Tensor, KeyValue]]] = {}

    def get_tokens(self, name: str, source: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """What `compute(source)` gave the first time it was asked for this `name` and this very tensor.

        Raises:
            InputError: more different tensors than `capacity`, as when a condition is moved anew at every step.
        """
        held = self._tokens.setdefault(name, {})
        if id(source) not in held:
            if len(held) >= self.capacity:
                raise InputError(
                    f"a ConditionCache was given {self.capacity + 1} different tensors as {name}, limit "
                    f"{self.capacity}; pass the same tensors at every step, or take a new cache for a new video"
                )
            held[id(source)] = (source, compute(source))  # the source is kept, so that its id stays its own
        return held[id(source)][1]

    def get_keys_values(self, block: int, tokens: ConditionTokens) -> KeysValues:
        """What is known of the keys and values of `get_tokens` in block number `block`."""
        known = {}
        for name, value in tokens._asdict().items():
            entry = self._keys_values.get((block, name), {}).get(id(value))
            known[name] = entry[1] if entry else None
        return KeysValues(**known)

    def store(self, block: int, tokens: ConditionTokens, keys_values: KeysValues) -> None:
        """Stores the keys and values that block number `block` made of `get_tokens`."""
        for name, value in keys_values._asdict().items():
            source = getattr(tokens, name)
            if value is not None:
                self._keys_values.setdefault((block, name), {})[id(source)] = (source, value)

    def evict(self, name: str) -> None:
        """Drops everything made of the condition `name`, as when a long video goes on to its next stretch of sound."""
        self._tokens.pop(name, None)
        for key in [key for key in self._keys_values if key[1] == name]:
            del self._keys_values[key]

    def nbytes(self) -> int:
        """Memory held, in bytes."""
        tokens = [value for held in self._tokens.values() for _, value in held.values()]
        pairs = [tensor for held in self._keys_values.values() for _, pair in held.values() for tensor in pair]
        return sum(tensor.nbytes for tensor in tokens + pairs)
