"""The training engine: score, accumulate, update, sample, save, load; optimizers, master weights, EMA."""
