"""Training: build a run from its recipe, make its updates, validate, and save checkpoints and the result."""
