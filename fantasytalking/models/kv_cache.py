"""Caches condition tokens and their keys and values over the denoising steps and guidance branches of one video.

Text, portrait, audio and face are constant while a video is denoised, and so are the tokens, keys and values computed
from them. Entries are found by the identity of their source tensor, so guidance branches that share a prompt or a
portrait also share its keys and values.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

from fantasytalking.common.errors import ErrorCode, InputError

KeyValue = tuple[Tensor, Tensor]
"""Key and value, each (B, tokens, heads, head_dim); of a windowed condition, windows are folded into the batch."""


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

    def get_keys_values(self, block: int, tokens: Mapping[str, Tensor]) -> dict[str, KeyValue]:
        """Returns the stored keys and values of `tokens`, by condition, in block number `block`."""
        known = {}
        for name, source in tokens.items():
            entry = self._keys_values.get((block, name), {}).get(id(source))
            if entry is not None:
                known[name] = entry[1]
        return known

    def store(self, block: int, tokens: Mapping[str, Tensor], keys_values: Mapping[str, KeyValue]) -> None:
        """Stores the keys and values that block number `block` computed from `tokens`."""
        for name, key_value in keys_values.items():
            self._keys_values.setdefault((block, name), {})[id(tokens[name])] = (tokens[name], key_value)

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
