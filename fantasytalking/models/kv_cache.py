"""Caches condition tokens and their keys and values over the denoising steps and guidance branches of one video.

Text, portrait, audio and face are constant while a video is denoised, and so are the tokens, keys and values computed
from them. Entries are found by the identity of their source tensor, so guidance branches that share a prompt or a
portrait also share its keys and values.
"""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from fantasytalking.common.errors import ErrorCode, InputError

KeyValue = tuple[Tensor, Tensor]
"""Key and value, each (B, tokens, heads, head_dim)."""


class ConditionTokens(NamedTuple):
    """Condition tokens that the blocks attend to."""

    text: Tensor
    """(B, T, dim)."""
    image: Tensor | None
    """(B, I, dim)."""
    audio: Tensor
    """(B, W, L, audio_token_dim)."""
    face: Tensor
    """(B, N, face_token_dim)."""
    expression: Tensor | None
    """(B, W, P K, expression_token_dim), K tokens per person and window; None without an expression condition."""


class KeysValues(NamedTuple):
    """Keys and values of one block; None where they are not computed yet or the condition is absent."""

    text: KeyValue | None = None
    image: KeyValue | None = None
    audio: KeyValue | None = None
    """Windows folded into the batch: (B W, L, heads, head_dim)."""
    face: KeyValue | None = None
    expression: KeyValue | None = None
    """Windows folded into the batch: (B W, P K, heads, head_dim)."""


class ConditionKVCache:
    """Stores the projections of one video's constant conditions. Pass the same cache at every denoising step.

    For inference only: entries were computed with the weights as they were and carry no gradient. The source tensors
    must be passed again as the same objects and must not be modified.

    Args:
        capacity: number of different source tensors per condition. A guided video has two prompts and one of each
            other condition.
    """

    def __init__(self, capacity: int = 8) -> None:
        self.capacity = capacity
        self._tokens: dict[str, dict[int, tuple[Tensor, Tensor]]] = {}
        self._keys_values: dict[tuple[int, str], dict[int, tuple[Tensor, KeyValue]]] = {}

    def get_tokens(self, name: str, source: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Returns `compute(source)`, computed once per condition `name` and source tensor.

        Raises:
            InputError: more different tensors than `capacity`, as when a condition is moved anew at every step.
        """
        stored = self._tokens.setdefault(name, {})
        if id(source) not in stored:
            if len(stored) >= self.capacity:
                raise InputError(
                    f"the condition cache received {self.capacity + 1} different tensors as {name}, limit "
                    f"{self.capacity}; pass the same tensors at every step, or use a new cache for a new video",
                    code=ErrorCode.out_of_range,
                    field=name,
                    value=self.capacity + 1,
                )
            stored[id(source)] = (source, compute(source))  # keeps the source, so that its id is not reused
        return stored[id(source)][1]

    def get_keys_values(self, block: int, tokens: ConditionTokens) -> KeysValues:
        """Returns the stored keys and values of `tokens` in block number `block`, None for each that is missing."""
        known = {}
        for name, value in tokens._asdict().items():
            entry = self._keys_values.get((block, name), {}).get(id(value))
            known[name] = entry[1] if entry else None
        return KeysValues(**known)

    def store(self, block: int, tokens: ConditionTokens, keys_values: KeysValues) -> None:
        """Stores the keys and values that block number `block` computed from `tokens`."""
        for name, value in keys_values._asdict().items():
            source = getattr(tokens, name)
            if value is not None:
                self._keys_values.setdefault((block, name), {})[id(source)] = (source, value)

    def evict(self, name: str) -> None:
        """Removes every entry of the condition `name`, as when a long video advances to its next audio window."""
        self._tokens.pop(name, None)
        for key in [key for key in self._keys_values if key[1] == name]:
            del self._keys_values[key]

    def nbytes(self) -> int:
        """Size of the stored tensors, in bytes."""
        tokens = [value for stored in self._tokens.values() for _, value in stored.values()]
        pairs = [tensor for stored in self._keys_values.values() for _, pair in stored.values() for tensor in pair]
        return sum(tensor.nbytes for tensor in tokens + pairs)
