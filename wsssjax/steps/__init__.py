"""The steps of a recipe: labels, arms, scores; their order is in order.py."""
