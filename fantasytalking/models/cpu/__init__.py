"""CPU implementations of attention, memory reuse and fused layers."""
