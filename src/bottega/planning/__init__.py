"""Before a run: what it will cost, whether it is worth it, and a recipe to begin with."""
