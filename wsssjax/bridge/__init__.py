"""The only folder that may import torch."""
