"""Live backbones in diffusers' own classes. Heavy: imported inside a settings class's `load`."""
