"""From tagged photos to a semantic segmentation model, in JAX and Flax."""

__version__ = "0.1.0"
