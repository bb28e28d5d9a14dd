"""The recipe of a run: its schema, its files, and the flags of other tools."""
