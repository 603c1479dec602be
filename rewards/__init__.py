"""Step-level reward models: each scores noisy latents. A new one is a file and a line in pyproject."""
