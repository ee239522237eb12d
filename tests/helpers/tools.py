"""Small files as annotation tools write them."""

CVAT_TASK = """<task><id>{id}</id><name>{name}</name><size>{size}</size><mode>interpolation</mode><overlap>0</overlap>
<start_frame>{start}</start_frame><stop_frame>{stop}</stop_frame><frame_filter>{filter}</frame_filter>{labels}
<segments><segment><id>1</id><start>0</start><stop>3</stop><url>http://localhost/api/jobs/1</url></segment></segments>
<original_size><width>48</width><height>32</height></original_size>{source}</task>"""
LABELS = """<labels><label><name>car</name><color>#ff0000</color><type>any</type><attributes></attributes></label>
<label><name>person</name><color>#00ff00</color><type>any</type><attributes><attribute><name>age</name>
<mutable>False</mutable></attribute></attributes></label></labels>"""


def cvat_task(id=1, name="a walk", size=6, start=0, stop=5, step=None, source="clip 1.mp4", labels=LABELS):
    source = source and f"<source>{source}</source>"
    step = f"step={step}" if step else ""
    return CVAT_TASK.format(
        id=id, name=name, size=size, start=start, stop=stop, filter=step, labels=labels, source=source
    )


def cvat(*children, meta=None):
    """A file of a task, or of another `meta`."""
    meta = cvat_task() if meta is None else meta
    head = '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n'
    return f"{head}<meta>{meta}<dumped>2024-01-01</dumped></meta>\n{''.join(children)}</annotations>\n"


def cvat_project(*tasks):
    """The meta of a project; its tasks have no labels of their own."""
    return f"<project><id>7</id><name>walks</name><tasks>{''.join(tasks)}</tasks>{LABELS}</project>"


def cvat_box(frame, box, outside=0, occluded=0, keyframe=1, more=""):
    sides = " ".join(f'{side}="{value:.2f}"' for side, value in zip(("xtl", "ytl", "xbr", "ybr"), box, strict=True))
    flags = f'keyframe="{keyframe}" outside="{outside}" occluded="{occluded}"'
    return f'<box frame="{frame}" {flags} {sides} z_order="0"{more}><attribute name="age">7</attribute></box>\n'


def cvat_track(id, label, *boxes, more=""):
    return f'<track id="{id}" label="{label}" source="manual"{more}>\n{"".join(boxes)}</track>\n'


def label_studio_task(*regions, video="/data/upload/3/0a1b2c3d-clip%201.mp4", id=1, **more):
    result = [
        {
            "value": {"framesCount": 6, "duration": 0.24, "sequence": sequence, "labels": [label]},
            "id": f"region{position}",
            "from_name": "box",
            "to_name": "video",
            "type": "videorectangle",
            "origin": "manual",
        }
        for position, (label, sequence) in enumerate(regions)
    ]
    annotation = {"id": 10 * id, "was_cancelled": False, "ground_truth": False, "result": result}
    return {"id": id, "annotations": [annotation], "data": {"video": video}, "predictions": []} | more


def key(frame, box, enabled=True, rotation=0):
    """A keyframe of Label Studio; `box` is x, y, width, height in percent."""
    sides = dict(zip(("x", "y", "width", "height"), box, strict=True))
    return {"frame": frame, "time": frame / 25, "enabled": enabled, "rotation": rotation, **sides}
