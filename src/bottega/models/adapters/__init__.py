"""Adapters: small trained additions to a frozen model, one file a kind."""
