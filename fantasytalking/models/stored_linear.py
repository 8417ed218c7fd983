"""Linear layers whose weight stays quantized, as its file stores it or by row, and is dequantized in every call."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fantasytalking.common.stored_tensors import LazyTensors, QuantizedTensor, scaled_values
from fantasytalking.models.diffusers_internals import float32_module_names


def quantize_rows(weight: Tensor, dtype: torch.dtype) -> QuantizedTensor:
    """Quantizes a matrix by row: values in `dtype` times a float32 scale, the largest of which is the row's.

    Args:
        weight: (out, in), of any floating-point dtype.
        dtype: int8, symmetric around zero; or a float8.
    """
    largest = torch.iinfo(dtype).max if dtype is torch.int8 else torch.finfo(dtype).max
    rows = weight.float()
    scale = rows.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / largest
    values = rows / scale
    return QuantizedTensor((values.round() if dtype is torch.int8 else values).to(dtype), scale)


class _DequantizedProduct(torch.autograd.Function):
    """Product with a dequantized weight, which the backward pass dequantizes anew instead of keeping it."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, values: Tensor, scale: Tensor | None, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(values, scale)
        ctx.has_bias = bias is not None and bias.requires_grad
        return F.linear(inputs, scaled_values(values, scale).to(inputs.dtype), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, Tensor | None]:
        (gradient,) = gradients
        values, scale = ctx.saved_tensors
        bias = gradient.flatten(0, -2).sum(0) if ctx.has_bias else None
        return gradient @ scaled_values(values, scale).to(gradient.dtype), None, None, bias


class ScaledLinear(nn.Linear):
    """nn.Linear with a weight of one byte per value, float8 or int8, times a float32 scale.

    Args:
        stored: weight (out, in) with its scale.
        has_bias: whether there is a bias, which is left on the meta device.
        compute_dtype: dtype of the product, of its inputs and of the bias.
    """

    weight_scale: Tensor | None

    def __init__(self, stored: QuantizedTensor, has_bias: bool, compute_dtype: torch.dtype) -> None:
        rows, columns = stored.values.shape
        super().__init__(columns, rows, has_bias, device="meta", dtype=compute_dtype)
        self.weight = nn.Parameter(stored.values, requires_grad=False)
        self.register_buffer("weight_scale", stored.scale, persistent=False)
        self.compute_dtype = compute_dtype

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in) -> (..., out), as a linear layer with the dequantized weight computes it."""
        device = inputs.device.type
        is_autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if is_autocast else self.compute_dtype
        if not (torch.is_grad_enabled() and inputs.requires_grad):
            return F.linear(inputs, scaled_values(self.weight, self.weight_scale).to(dtype), self.bias)
        inputs, bias = (value if value is None or not is_autocast else value.to(dtype) for value in (inputs, self.bias))
        return _DequantizedProduct.apply(inputs, self.weight, self.weight_scale, bias)


def stored_linear(stored: QuantizedTensor, has_bias: bool, compute_dtype: torch.dtype) -> nn.Linear:
    """Returns a layer that keeps the weight `stored`; of GGUF, diffusers' layer. Its bias is on the meta device."""
    if stored.block_format is None:
        return ScaledLinear(stored, has_bias, compute_dtype)
    from diffusers.quantizers.gguf.utils import GGUFLinear, GGUFParameter  # needs the package gguf

    weight: nn.Parameter = GGUFParameter(stored.values, quant_type=stored.block_format)
    rows, columns = logical_shape(weight)
    layer: nn.Linear = GGUFLinear(columns, rows, has_bias, compute_dtype, device="meta")
    layer.weight = weight
    return layer


def keep_stored_weights(
    model: nn.Module, tensors: LazyTensors, names: Iterable[str], dtype: torch.dtype | None
) -> set[str]:
    """Replaces linear layers by layers that keep their weights as stored, and returns the names of these weights.

    Modules that diffusers or transformers keep in float32 are left, whatever `dtype` is: code asks for the dtype of
    their weights.

    Args:
        model: on the meta device.
        tensors: in the model's names.
        names: tensors that may stay as stored.
        dtype: of the products; None where no tensor is quantized.
    """
    float32 = float32_module_names(model)
    kept: set[str] = set()
    for weight in names:
        name, _, leaf = weight.rpartition(".")
        if leaf != "weight" or weight not in tensors.quantized or any(part in float32 for part in name.split(".")):
            continue
        module = model.get_submodule(name)
        if isinstance(module, nn.Linear):
            assert dtype is not None, "quantized tensors have a dtype that they are computed with"
            model.set_submodule(name, stored_linear(tensors.quantized[weight](), module.bias is not None, dtype))
            kept.add(weight)
    return kept


def logical_shape(weight: Tensor) -> tuple[int, ...]:
    """Returns the shape of a parameter once it is dequantized."""
    return tuple(getattr(weight, "quant_shape", weight.shape))


def stored_weight_names(model: nn.Module) -> list[str]:
    """Returns the names of the weights that stay quantized."""
    modules = dict(model.named_modules()).items()
    return [f"{name}.weight" for name, module in modules if isinstance(module, ScaledLinear) or _has_blocks(module)]


def _has_blocks(module: nn.Module) -> bool:
    return hasattr(getattr(module, "weight", None), "quant_type")
