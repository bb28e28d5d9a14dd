"""What a run came to, for people: one value, and its renderings as a page, as Markdown and as JSON."""
