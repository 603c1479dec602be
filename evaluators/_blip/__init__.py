"""BLIP's networks, of transformers' classes, filled with weights under BLIP's own names."""
