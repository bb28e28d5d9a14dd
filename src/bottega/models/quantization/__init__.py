"""Quantization of frozen weights to four or eight bits."""
