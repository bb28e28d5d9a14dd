"""Before a run: what it will take, whether it is worth it, and a recipe to start from."""
