"""The recipe over a grid of settings, and the paper's tables from it."""
