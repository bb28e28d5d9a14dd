"""Frozen weights kept in four or eight bits."""
