"""The live page of the control room: one process, one second behind the database."""

from dashboards.console.server import create_app, serve

__all__ = ["create_app", "serve"]
