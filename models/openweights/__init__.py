"""Open weights: checkpoints that other people trained, run by diffusers behind our protocol."""
