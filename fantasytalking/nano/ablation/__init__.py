"""The ablation on nano: its rows, measurements and statistics."""
