"""An augmentation looks at its input and draws a transform."""

import inspect

from fvcore.transforms.transform import Transform, TransformList


class Augmentation:
    """A (usually random) policy that gives a `Transform`.

    A subclass defines `get_transform` with positional arguments named like attributes of the input it needs (`image`,
    `boxes`, `sem_seg`, or others that the caller's own input class has). A single argument, of any name, is the image.
    """

    def get_transform(self, *args):
        """Draws the transform. To be overridden."""
        raise NotImplementedError(f"{type(self).__name__} does not define get_transform")

    def __call__(self, aug_input):
        """Draws the transform, applies it to `aug_input` in place, and returns it."""
        transform = self.get_transform(*_arguments_of(self, aug_input))
        if not isinstance(transform, Transform):
            raise TypeError(f"{type(self).__name__}.get_transform must return a Transform, got {transform!r}")
        aug_input.transform(transform)
        return transform

    def __repr__(self):
        """The constructor's arguments, as far as they are attributes of the same name."""
        names = [name for name in inspect.signature(type(self)).parameters if hasattr(self, name)]
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    __str__ = __repr__


def _arguments_of(augmentation, aug_input):
    names = list(inspect.signature(augmentation.get_transform).parameters)
    names = ["image"] if len(names) == 1 else names
    missing = [name for name in names if not hasattr(aug_input, name)]
    if missing:
        raise AttributeError(
            f"{type(augmentation).__name__}.get_transform needs {missing}, which {type(aug_input).__name__} has not"
        )
    return [getattr(aug_input, name) for name in names]


class _FixedTransform(Augmentation):
    """A transform in the place of an augmentation."""

    def __init__(self, transform):
        self.transform = transform

    def get_transform(self):
        return self.transform

    def __repr__(self):
        return repr(self.transform)


def as_augmentation(aug):
    """An augmentation as it is, a transform wrapped. Raises TypeError for anything else."""
    if isinstance(aug, Augmentation):
        return aug
    if isinstance(aug, Transform):
        return _FixedTransform(aug)
    raise TypeError(f"expected an Augmentation or a Transform, got {aug!r}")


class AugmentationList(Augmentation):
    """Augmentations one after the other, each looking at what the one before has left.

    Args:
        augs: augmentations or transforms.
    """

    def __init__(self, augs):
        super().__init__()
        self.augs = [as_augmentation(aug) for aug in augs]

    def __call__(self, aug_input):
        """Applies all of them to `aug_input` in place and returns the `TransformList` of what was drawn."""
        return TransformList([aug(aug_input) for aug in self.augs])

    def __repr__(self):
        return f"AugmentationList[{', '.join(str(aug) for aug in self.augs)}]"

    __str__ = __repr__


class AugInput:
    """What augmentations look at and transform.

    Args:
        image: (H, W) or (H, W, C) array, uint8 in [0, 255] or floating point.
        boxes: (N, 4) array, XYXY_ABS.
        sem_seg: (H, W) array of labels.
    """

    def __init__(self, image, *, boxes=None, sem_seg=None):
        self.image = image
        self.boxes = boxes
        self.sem_seg = sem_seg

    def transform(self, tfm):
        """Applies a transform to all attributes, in place."""
        self.image = tfm.apply_image(self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)

    def apply_augmentations(self, augmentations):
        """Applies a list of augmentations in place and returns the `TransformList` of what was drawn."""
        return AugmentationList(augmentations)(self)


StandardAugInput = AugInput
