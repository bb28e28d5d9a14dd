"""All commands: importing this module adds them to the application. Heavy imports stand inside the commands."""

from bottega.cli import train, use, serve, jobs, files, keys, export, adapter, olive, inspect, explain  # noqa: F401, I001, each adds its commands, and help lists them in this order
from bottega.cli.app import app

__all__ = ["app"]
