"""Stage 1: classifiers that localise."""
