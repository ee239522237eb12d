"""The position of the loader: from it on come the clips that would have come."""

import itertools
import random

import pytest

from vod2.data.clips.samplers import NumberedSampler
from vod2.data.clips.train_loader import Groups, SeededDataset, TrainingLoader


class Drawn:
    """Clips of which every third is upright, with a number that is drawn."""

    def __len__(self):
        return 10

    def __getitem__(self, item):
        wide = item % 3 != 0
        return {"item": item, "width": 4 if wide else 2, "height": 3, "drawn": random.random()}


def loader(seed=0, groups=None, batch=3):
    def make(seed):
        sampler = NumberedSampler([(7 * count + seed) % 10 for count in range(1000)], 0, 1)
        dataset = SeededDataset(Drawn(), seed)

        class Batches:
            def __iter__(self):
                items = iter(sampler)
                while True:
                    yield [dataset[numbered] for numbered in itertools.islice(items, 1 if groups else batch)]

        return Batches(), sampler

    return TrainingLoader(make, seed, groups)


def take(loader, count):
    return list(itertools.islice(loader, count))


@pytest.mark.parametrize("groups", [None, Groups(2, 1), Groups(3, 1), Groups(2, 2), Groups(1, 3)])
@pytest.mark.parametrize("before", [0, 1, 2, 3, 7])
def test_after_a_restart_come_the_same_batches(groups, before):
    whole = take(loader(groups=groups), before + 12)
    interrupted = loader(groups=groups)
    batches = iter(interrupted)
    for _ in range(before):
        next(batches)
    state = interrupted.state_dict()
    resumed = loader(groups=groups)
    resumed.load_state_dict(state)
    assert take(resumed, 12) == whole[before:]


def test_it_can_be_interrupted_again_and_again():
    groups = Groups(2, 1)
    whole = take(loader(groups=groups), 12)
    seen, state = [], None
    for _ in range(6):
        part = loader(groups=groups)
        if state is not None:
            part.load_state_dict(state)
        seen += take(part, 2)
        state = part.state_dict()
    assert seen == whole


def test_the_seed_goes_with_the_position():
    state = loader(seed=4).state_dict()
    other = loader(seed=9)
    other.load_state_dict(state)
    assert take(other, 3) == take(loader(seed=4), 3)


def test_clips_know_their_number_and_a_seed_of_their_own():
    clips = [clip for batch in take(loader(), 4) for clip in batch]
    assert [clip["sample_number"] for clip in clips] == list(range(12))
    assert len({clip["sample_seed"] for clip in clips}) == 12


def test_skipped_samples_do_not_come():
    other = loader()
    other.skip(6)
    assert take(other, 2) == take(loader(), 4)[2:]
