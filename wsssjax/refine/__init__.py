"""Stage 2: label maps to better label maps."""
