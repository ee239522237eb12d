"""Readers of what annotation tools export, and of data sets that are read like these."""

from pathlib import Path

from fuzzing.datasets import both
from fuzzing.target import Target, image, text
from vod2.data.datasets.bdd import load_bdd
from vod2.data.datasets.cvat import load_cvat
from vod2.data.datasets.epic import load_epic
from vod2.data.datasets.label_studio import load_label_studio
from vod2.data.datasets.visdrone import load_visdrone

_TASK = b"""<task><id>1</id><name>v</name><size>3</size><frame_filter></frame_filter><labels><label><name>elf</name>
</label></labels><original_size><width>12</width><height>8</height></original_size><source>v.mp4</source></task>"""
_BOX = b'frame="%d" xtl="1" ytl="1" xbr="5" ybr="5.5" outside="%d" occluded="0" keyframe="1"'
_TRACK = b'<track id="0" label="elf"><box %s/><box %s rotation="30"/></track>' % (_BOX % (0, 0), _BOX % (2, 1))
_IMAGE = b'<image id="1" name="v/1.png" width="12" height="8"><box label="elf" %s/><polygon/></image>' % (_BOX % (0, 0))


def _video(folder: Path, names: str = "{}.png", first: int = 0) -> None:
    for index in range(3):
        image(folder / names.format(index + first))


def cvat(folder: Path) -> Target:
    """XML of CVAT: of a video, of images, and of a project."""
    _video(folder / "v")
    project = b"<project><tasks>%s</tasks></project>" % _TASK
    seeds = (
        b"<annotations><meta>%s</meta>%s</annotations>" % (_TASK, _TRACK),
        b"<annotations><meta>%s</meta>%s</annotations>" % (_TASK, _IMAGE),
        b"<annotations><meta>%s</meta>%s</annotations>" % (project, _TRACK.replace(b"<track", b'<track task_id="1"')),
    )
    file = folder / "annotations.xml"
    return Target(file, seeds, both(lambda: load_cvat(file), file, format="cvat"))


def label_studio(folder: Path) -> Target:
    """JSON of Label Studio."""
    _video(folder / "v")
    sides = {"x": 10, "y": 10, "width": 20.5, "height": 30, "time": 0.1}
    keys = [{"frame": 1, "enabled": True, "rotation": 0} | sides, {"frame": 3, "enabled": False, "rotation": 5} | sides]
    value = {"framesCount": 3, "duration": 1, "labels": ["elf"], "sequence": keys}
    notes = [{"id": 1, "result": [{"type": "videorectangle", "value": value, "id": "a"}]}]
    file = folder / "project.json"
    seed = text([{"data": {"video": "/data/upload/1/0a1b2c3d-v.mp4"}, "annotations": notes}])
    return Target(file, (seed,), both(lambda: load_label_studio(file), file, format="label_studio"))


def visdrone(folder: Path) -> Target:
    """The annotations of VisDrone."""
    _video(folder / "sequences" / "v", "{:07d}.jpg", 1)
    (folder / "annotations").mkdir()
    seed = b"1,5,1,1,4,4,1,4,0,0\n2,5,1,1,4,4,1,4,0,1\n2,0,0,0,4,4,0,0,0,0\n"
    return Target(folder / "annotations" / "v.txt", (seed,), both(lambda: load_visdrone(folder), folder))


def bdd(folder: Path) -> Target:
    """JSON of BDD100K."""
    _video(folder / "v")
    label = {"id": "7", "category": "car", "attributes": {"crowd": False, "occluded": True}}
    label["box2d"] = {"x1": 1, "y1": 1, "x2": 5, "y2": 5.5}
    frames = [{"videoName": "v", "name": f"{index}.png", "frameIndex": index, "labels": [label]} for index in range(2)]
    file = folder / "labels.json"
    config = {"categories": [{"name": "vehicle", "subcategories": [{"name": "car"}]}]}
    seeds = (text(frames), text({"frames": frames, "config": config}))
    return Target(file, seeds, both(lambda: load_bdd(file), file, format="bdd"))


_EPIC = b"""noun_class,noun,participant_id,video_id,frame,bounding_boxes
4,knife,P01,v,1,"[(108, 192, 54, 96), (0, 0, 54, 96)]"
20,bag,P01,v,3,[]
"""


def epic(folder: Path) -> Target:
    """The object labels of EPIC-KITCHENS."""
    _video(folder / "v", "{:010d}.jpg", 1)
    file = folder / "EPIC_train_object_labels.csv"
    return Target(file, (_EPIC,), both(lambda: load_epic(file), file, format="epic"))


def epic_nouns(folder: Path) -> Target:
    """The names of its classes."""
    _video(folder / "v", "{:010d}.jpg", 1)
    table = folder / "EPIC_train_object_labels.csv"
    table.write_bytes(_EPIC)
    seed = b"noun_id,class_key,nouns\n4,knife,\"['knife', 'knife:butter']\"\n20,bag,['bag']\n"
    return Target(folder / "EPIC_noun_classes.csv", (seed,), both(lambda: load_epic(table), table, format="epic"))
