"""Data audit: finds what is wrong with records before anything is trained on them. Public entry: `bottega.audit`."""
