"""The check of a recipe's inputs."""
