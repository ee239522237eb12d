"""Speed of whole detectors and of their trainings, for tools/benchmark.py."""
