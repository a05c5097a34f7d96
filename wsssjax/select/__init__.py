"""Stage 3: which labels to trust."""
