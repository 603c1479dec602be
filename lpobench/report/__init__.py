"""Tables and pictures made of run records. No torch."""
