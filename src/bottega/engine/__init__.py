"""The engine: score, accumulate, update, sample, save, load. It knows nothing of the algorithm it serves."""
