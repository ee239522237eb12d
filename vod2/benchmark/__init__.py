"""Speed and memory of whole detectors, of their training steps, and of single parts: `vod2 benchmark`."""
