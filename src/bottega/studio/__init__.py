"""The studio: the workshop in a browser, a client of the same verbs as the command line."""
