"""CLIP-FlanT5: a T5 that reads an image's patches in the middle of its prompt."""
