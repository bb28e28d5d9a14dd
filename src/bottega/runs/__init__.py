"""The run folder: what is stored, how it is summarised, and where else it is shown."""
