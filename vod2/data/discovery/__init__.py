"""Anybody's annotated videos as datasets, without code: their layout is found, their classes read, a split made."""

from vod2.data.discovery.layouts import REGISTER, Layout, find_layout, role_of
from vod2.data.discovery.registration import register_data, registration_text
from vod2.data.discovery.splitting import Split, first_frames, split_videos

__all__ = [
    "REGISTER",
    "Layout",
    "Split",
    "find_layout",
    "first_frames",
    "register_data",
    "registration_text",
    "role_of",
    "split_videos",
]
