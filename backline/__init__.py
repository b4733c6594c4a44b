"""Backline by its own name: its version. The rooms stay packages of their own (docs/adr/0011-names-of-the-rooms.md)."""

from importlib.metadata import version

__version__ = version("backline")
