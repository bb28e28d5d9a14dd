"""The report of a run as one value, and its renderings as HTML, Markdown and JSON. Public entry: `bottega.report`."""
