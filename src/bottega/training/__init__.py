"""A run: its data, its model, one step after the other, and what is saved of it."""
