"""The explainer: what a model computes for a text, layer by layer, and how that differs from another model."""
