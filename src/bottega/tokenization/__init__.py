"""Records → token rows: chat templates, which tokens carry loss, and text from tokens."""
