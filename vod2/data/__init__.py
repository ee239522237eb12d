"""Datasets, clips and loaders."""
