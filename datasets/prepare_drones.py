#!/usr/bin/env python3
"""Make the data sets drones_ir and drones_visible from a clone of the Drone Detection Dataset (CC0).

    git clone https://github.com/DroneDetectionThesis/Drone-detection-dataset
    python datasets/prepare_drones.py Drone-detection-dataset

Writes drones_ir/{train,val}.json.gz and drones_visible/{train,val}.json.gz, and beside them `videos`, a link to the
clone's. What is there already is kept. Needs SciPy (pip install scipy).
"""

import argparse
import os

from vod2.data.datasets.drones import DRONE_SENSORS
from vod2.data.datasets.drones_clone import prepare_drones
from vod2.engine import cli


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clone", metavar="CLONE", help="folder of the clone")
    default = os.environ.get("DETECTRON2_DATASETS", "datasets")
    parser.add_argument("--output", default=default, metavar="DIR", help=f"folder of datasets ({default})")
    parser.add_argument("--sensor", choices=list(DRONE_SENSORS), help="only one of the two")
    parser.add_argument("--copy-videos", action="store_true", help="copy the videos rather than link to them")
    parser.add_argument("--skip-missing", action="store_true", help="leave out clips that lack their video or labels")
    return parser


def main(arguments: list[str] | None = None) -> None:
    args = _parser().parse_args(arguments)
    sensors = list(DRONE_SENSORS) if args.sensor is None else [args.sensor]
    for path in prepare_drones(args.clone, args.output, sensors, args.copy_videos, args.skip_missing):
        print(path)


if __name__ == "__main__":
    cli.run(main)
