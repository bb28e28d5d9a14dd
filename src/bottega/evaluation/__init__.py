"""How good a model is, against what it must beat, and how sure that is."""
