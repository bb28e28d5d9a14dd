"""From sources to the examples of an update: reading files, splitting, encoding, the example cache, sampling."""
