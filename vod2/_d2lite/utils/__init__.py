"""Utilities of the stand-in: communication, events, files, logging, registry, visualization."""
