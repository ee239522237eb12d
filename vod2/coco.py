"""The categories of COCO, whose detectors load here as they are (docs/detectors.md)."""

_NAMES = (
    "person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, "
    "parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, "
    "handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, "
    "surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, "
    "broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, "
    "mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, "
    "teddy bear, hair drier, toothbrush"
).split(", ")

_UNUSED_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # of 1 .. 90, which no category has

COCO_IDS = tuple(number for number in range(1, 91) if number not in _UNUSED_IDS)
"""The ids of the 80 categories in COCO's JSON, ascending: label k of a detector of COCO is the category COCO_IDS[k]."""

COCO_CLASSES = tuple(_NAMES)
"""Their names by label."""
