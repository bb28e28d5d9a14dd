"""The phrases of the demo's world, a module for each language; all have the same names."""
