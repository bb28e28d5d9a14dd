"""Trained models in use: text generation, classification, tagging, filling masks, embedding."""
