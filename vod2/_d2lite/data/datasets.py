"""COCO's json format, boxes only."""

import contextlib
import io
import json
import logging
import os

from pycocotools.coco import COCO

from vod2._d2lite.structures import BoxMode
from vod2._d2lite.utils.file_io import PathManager
from vod2.atomic import replacing

from .catalog import DatasetCatalog, MetadataCatalog

_logger = logging.getLogger(__name__)


def load_coco_json(json_file, image_root, dataset_name=None, extra_annotation_keys=None):
    """Reads a json file in COCO's instances format; the images themselves are not read.

    Args:
        json_file: path of the file.
        image_root: the folder that its file names are relative to.
        dataset_name: where given, category ids are mapped to [0, K) in the order of the ids, and `thing_classes` and
            `thing_dataset_id_to_contiguous_id` are set in the metadata of that dataset. Otherwise ids stay as they are.
        extra_annotation_keys: keys of an annotation to keep besides iscrowd, bbox and category_id.

    Returns:
        list[dict]: dataset dicts in the order of the image ids: file_name, height, width, image_id, annotations, each
        with bbox in BoxMode.XYWH_ABS.

    Raises:
        ValueError: an annotation belongs to no category of the file, has no box of four numbers, or is marked "ignore".
    """
    # pycocotools prints its progress
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(PathManager.get_local_path(os.fspath(json_file)))
    categories = coco.loadCats(sorted(coco.getCatIds()))
    id_map = {c["id"]: c["id"] for c in categories}
    if dataset_name is not None:
        # By id, so that class numbers do not depend on the order in the file
        id_map = {c["id"]: i for i, c in enumerate(categories)}
        MetadataCatalog.get(dataset_name).set(
            thing_classes=[c["name"] for c in categories], thing_dataset_id_to_contiguous_id=id_map
        )
    keys = ["iscrowd", "bbox", "category_id", *(extra_annotation_keys or [])]
    dicts = []
    for image_id in sorted(coco.imgs):
        image = coco.imgs[image_id]
        record = {"file_name": os.path.join(image_root, image["file_name"]), "image_id": image_id}
        record.update(height=image["height"], width=image["width"])
        record["annotations"] = [_load_annotation(a, keys, id_map, json_file) for a in coco.imgToAnns[image_id]]
        dicts.append(record)
    _logger.info("Loaded %d images in COCO format from %s", len(dicts), json_file)
    return dicts


def _load_annotation(annotation, keys, id_map, json_file):
    where = f"{json_file}: annotation {annotation.get('id')} of image {annotation['image_id']}"
    result = {key: annotation[key] for key in keys if key in annotation}
    if len(result.get("bbox", ())) != 4:
        raise ValueError(f"{where}: expected a bbox [x, y, width, height], got {result.get('bbox')}")
    # COCOeval overwrites "ignore" with "iscrowd", so the annotation would count as an ordinary object
    if annotation.get("ignore", 0):
        raise ValueError(f"{where}: 'ignore' is not supported; remove the annotation, or mark it 'iscrowd'")
    if result["category_id"] not in id_map:
        raise ValueError(f"{where}: category_id {result['category_id']} is not among the 'categories' of the file")
    return {**result, "bbox_mode": BoxMode.XYWH_ABS, "category_id": id_map[result["category_id"]]}


def register_coco_instances(name, metadata, json_file, image_root):
    """Registers a dataset in COCO's json format, to be evaluated by `COCOEvaluator`.

    Args:
        name: the name to register.
        metadata: dict of further metadata; may be empty.
        json_file: path of the annotations.
        image_root: folder of the images.
    """
    # Loaded on first use: scripts register datasets that this machine may not have
    DatasetCatalog.register(name, lambda: load_coco_json(json_file, image_root, name))
    MetadataCatalog.get(name).set(json_file=json_file, image_root=image_root, evaluator_type="coco", **metadata)


def convert_to_coco_json(dataset_name, output_file, allow_cached=True):
    """Writes a registered dataset as a COCO json file, atomically; with `allow_cached`, an existing one is kept."""
    if os.path.exists(output_file) and allow_cached:
        _logger.warning("Using the cached annotations %s. Remove the file if the dataset has changed.", output_file)
        return
    with replacing(output_file) as temporary, open(temporary, "w") as f:
        json.dump(_to_coco_dict(dataset_name), f)


def _to_coco_dict(dataset_name):
    metadata = MetadataCatalog.get(dataset_name)
    to_dataset_id = {v: k for k, v in metadata.get("thing_dataset_id_to_contiguous_id", {}).items()}
    images: list[dict] = []
    annotations: list[dict] = []
    for image in DatasetCatalog.get(dataset_name):
        image_id = image["image_id"]
        size = {"width": int(image["width"]), "height": int(image["height"])}
        images.append({"id": image_id, "file_name": str(image["file_name"]), **size})
        for annotation in image.get("annotations", []):
            bbox = list(BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYWH_ABS))
            category = int(annotation["category_id"])
            annotations.append(
                {
                    "id": len(annotations) + 1,  # pycocotools takes the id 0 for "not matched"
                    "image_id": image_id,
                    # To a thousandth of a pixel, as Detectron2 writes it
                    "bbox": [round(float(x), 3) for x in bbox],
                    # COCOeval decides by this, not by the box, what is small, medium and large
                    "area": float(bbox[2] * bbox[3]),
                    "iscrowd": int(annotation.get("iscrowd", 0)),
                    "category_id": to_dataset_id.get(category, category),
                }
            )
    categories = [{"id": to_dataset_id.get(i, i), "name": name} for i, name in enumerate(metadata.thing_classes)]
    info = {"description": f"{dataset_name}, converted from its dataset dicts"}
    return {"info": info, "images": images, "annotations": annotations, "categories": categories}
