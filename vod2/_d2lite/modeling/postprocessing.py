"""From the resized image back to the original one."""

from vod2._d2lite.structures import Boxes, Instances


def detector_postprocess(results: Instances, output_height: int, output_width: int) -> Instances:
    """Scale boxes to an image of the given size, clip them, and drop those that become empty.

    Args:
        results: with "pred_boxes" or "proposal_boxes"; left unchanged.

    Returns:
        New `Instances` of that image size, with the same fields.
    """
    height, width = results.image_size
    name = "pred_boxes" if results.has("pred_boxes") else "proposal_boxes"
    if not results.has(name):
        raise ValueError("detector_postprocess needs the field pred_boxes or proposal_boxes")
    boxes: Boxes = results.get(name).clone()
    boxes.scale(output_width / width, output_height / height)
    boxes.clip((output_height, output_width))
    output = Instances((output_height, output_width), **{**results.get_fields(), name: boxes})
    return output[boxes.nonempty()]
