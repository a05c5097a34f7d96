"""Stage 4: the segmenter."""
