"""The whole life of a small model on invented data, through the public API: `bottega demo`."""
