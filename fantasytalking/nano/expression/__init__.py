"""Training of the expression encoder and its reader."""
