"""Many processes and little memory: one run on several GPUs, and batches that are halved until they fit."""
