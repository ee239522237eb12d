"""A small stand-in for Detectron2: the same names, contracts, configuration keys and parameter names.

`vod2.d2` is its only user: where Detectron2 is not installed, that door opens to this package instead. It stands on
torchvision, fvcore and iopath, and adds what they lack. Masks, keypoints, rotated boxes, panoptic segmentation,
test-time augmentation and lazy configurations are left out: README.md beside this file says what is here.
"""
