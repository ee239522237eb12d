"""Keeps the relations of an evaluation's detections, for linking them afterwards.

F: frames, n: detections of all of them, K: support proposals of a frame that relations are kept of.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vod2 import atomic
from vod2.bounded import read_npz
from vod2.d2 import DatasetEvaluator, comm
from vod2.errors import UserError

RELATIONS_FILE = "relations.npz"
"""Its name, beside detections.npz."""

Relations = dict[str, tuple[np.ndarray, np.ndarray]]
"""image_id -> proposal_index (n_t,) int32 and next_relation (n_t, K) float16 of its detections."""


class RelationWriter(DatasetEvaluator):
    """Writes `proposal_index` and `next_relation` of all detections to relations.npz; has no metrics of its own.

    Args:
        folder: where detections.npz goes, too.
        distributed: gather from all processes.

    Example:
        >>> from vod2.evaluation import RelationWriter
        >>> writer = RelationWriter("output/inference/synthetic_val")
    """

    def __init__(self, folder: str | Path, distributed: bool = True) -> None:
        self._folder, self._distributed = Path(folder), distributed
        self.reset()

    def reset(self) -> None:
        """Forget all relations."""
        self._relations: Relations = {}

    def process(self, inputs: Sequence[dict], outputs: Sequence[dict]) -> None:
        """inputs with `image_id`, outputs with `instances` that have the fields of MODEL.VIDEO.KEEP_RELATIONS.

        Raises:
            UserError: if they have not.
        """
        for frame, output in zip(inputs, outputs, strict=True):
            instances = output["instances"]
            if not instances.has("next_relation"):
                raise UserError("MODEL.VIDEO.KEEP_RELATIONS is True, but the model's aggregator keeps no relations")
            self._relations[str(frame["image_id"])] = (
                instances.proposal_index.cpu().numpy().astype(np.int32),
                # By way of float32, as numpy has no bfloat16; float16, as there are K of them for a detection.
                instances.next_relation.detach().cpu().float().numpy().astype(np.float16),
            )

    def evaluate(self) -> None:
        """Write the file, in the first process."""
        parts = comm.gather(self._relations, dst=0) if self._distributed else [self._relations]
        if self._distributed and not comm.is_main_process():
            return
        gathered = {image_id: arrays for part in parts for image_id, arrays in part.items()}
        # Without frames there is nothing to concatenate, and nothing to link.
        if not gathered:
            return
        proposals, relations = zip(*gathered.values(), strict=True)
        with atomic.replacing(self._folder / RELATIONS_FILE) as path:
            np.savez_compressed(
                path,
                image_ids=np.array(list(gathered)),
                count=np.array([len(indices) for indices in proposals]),
                proposal_index=np.concatenate(proposals),
                next_relation=np.concatenate(relations),
            )


def read_relations(path: Path) -> Relations:
    """What `RelationWriter` wrote.

    Raises:
        UserError: if there is no such file, or it holds something else.
    """
    try:
        arrays = read_npz(path)
        ends = np.cumsum(arrays["count"])[:-1]
        proposals = np.split(arrays["proposal_index"], ends)
        relations = np.split(arrays["next_relation"], ends)
        return dict(zip(arrays["image_ids"].tolist(), zip(proposals, relations, strict=True), strict=True))
    except (OSError, KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} holds no relations ({error}): BLR needs what an evaluation with MODEL.VIDEO.KEEP_RELATIONS True "
            "writes beside detections.npz"
        ) from error
