"""RoIAlign in plain loops: He et al., Mask R-CNN (ICCV 2017), section 3; the rules at the border are Caffe2's.

A sample counts as 0 where it lies more than one cell outside of the map, and as the border before.
"""

import math


def bilinear(channel, y, x):
    """`channel` (H, W) at the fractional cell (y, x)."""
    H, W = channel.shape
    if y < -1 or y > H or x < -1 or x > W:
        return 0.0
    y, x = min(max(y, 0.0), H - 1.0), min(max(x, 0.0), W - 1.0)
    total = 0.0
    for row in {math.floor(y), math.ceil(y)}:
        for column in {math.floor(x), math.ceil(x)}:
            total += (1 - abs(y - row)) * (1 - abs(x - column)) * channel[row, column].item()
    return total


def roi_align(features, rois, output_size, scale, samples, aligned):
    """(B, C, H, W), (M, 5) -> (M, C, P, Q), in float64; `samples` 0: as many as a bin has cells, rounded up."""
    P, Q = output_size
    out = features.new_zeros(len(rois), features.shape[1], P, Q).double()
    for m, (index, x1, y1, x2, y2) in enumerate(rois.double().tolist()):
        left, top, right, bottom = (place * scale - (0.5 if aligned else 0.0) for place in (x1, y1, x2, y2))
        width, height = right - left, bottom - top
        if not aligned:
            width, height = max(width, 1.0), max(height, 1.0)
        down = samples or math.ceil(height / P)
        across = samples or math.ceil(width / Q)
        for c in range(features.shape[1]):
            for p in range(P):
                for q in range(Q):
                    values = [
                        bilinear(
                            features[int(index), c],
                            top + (p + (i + 0.5) / down) * height / P,
                            left + (q + (j + 0.5) / across) * width / Q,
                        )
                        for i in range(down)
                        for j in range(across)
                    ]
                    out[m, c, p, q] = sum(values) / max(len(values), 1)
    return out
