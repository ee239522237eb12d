"""Detectors as graphs for other runtimes, and a runner of streams on ONNX Runtime (docs/export.md)."""

from vod2.export.graphs import Part, make_parts
from vod2.export.manifest import Manifest
from vod2.export.runner import OnnxPredictor
from vod2.export.writing import FORMATS, export_detector

__all__ = ["FORMATS", "Manifest", "OnnxPredictor", "Part", "export_detector", "make_parts"]
