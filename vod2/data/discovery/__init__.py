"""Anybody's annotated videos as datasets, without code: their layout is found, their classes read, a split made."""

from vod2.data.discovery.layouts import REGISTER, Layout, find_layout, role_of
from vod2.data.discovery.registration import (
    common_classes,
    digest_of,
    load_parts,
    register_data,
    registration_text,
    video_lengths,
)
from vod2.data.discovery.splitting import Split, first_frames, split_videos

__all__ = [
    "REGISTER",
    "Layout",
    "Split",
    "common_classes",
    "digest_of",
    "find_layout",
    "first_frames",
    "load_parts",
    "register_data",
    "registration_text",
    "role_of",
    "split_videos",
    "video_lengths",
]
