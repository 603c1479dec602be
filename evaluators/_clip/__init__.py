"""What the CLIP scorers share: pixels, prompts, towers, and a score that is a scaled cosine."""
