"""The contract of samplers, dataset wrappers, the mapper and the loaders, on whichever backend is active."""

import itertools
import random
import uuid

import numpy as np
import pytest
import torch
from PIL import Image

from vod2._d2lite.data import MapDataset as LiteMapDataset
from vod2.d2 import (
    BoxMode,
    DatasetCatalog,
    DatasetFromList,
    DatasetMapper,
    InferenceSampler,
    MapDataset,
    MetadataCatalog,
    RepeatFactorTrainingSampler,
    TrainingSampler,
    build_detection_test_loader,
    build_detection_train_loader,
    comm,
    get_cfg,
    seed_all_rng,
    transforms,
)


def first(n, iterable):
    return list(itertools.islice(iterable, n))


@pytest.fixture
def ranks(monkeypatch):
    """Builds a sampler as each of `world` processes would."""

    def build(world, make):
        monkeypatch.setattr(comm, "get_world_size", lambda: world)
        samplers = []
        for rank in range(world):
            monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
            samplers.append(make())
        return samplers

    return build


def test_the_training_sampler_runs_through_all_items_again_and_again():
    indices = first(12, TrainingSampler(4, seed=1))
    epochs = [indices[:4], indices[4:8], indices[8:]]
    assert all(sorted(epoch) == [0, 1, 2, 3] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert first(5, TrainingSampler(4, shuffle=False)) == [0, 1, 2, 3, 0]


def test_the_training_sampler_follows_its_seed_and_torch_generator():
    generator = torch.Generator()
    generator.manual_seed(5)
    expected = torch.randperm(7, generator=generator).tolist() + torch.randperm(7, generator=generator).tolist()
    assert first(14, TrainingSampler(7, seed=5)) == expected


def test_processes_take_turns_in_one_shuffled_order(ranks):
    whole = first(12, TrainingSampler(4, seed=3))
    shards = [first(4, sampler) for sampler in ranks(3, lambda: TrainingSampler(4, seed=3))]
    assert shards == [whole[0::3], whole[1::3], whole[2::3]]


def test_the_inference_sampler_gives_each_item_once_in_contiguous_shards(ranks):
    samplers = ranks(3, lambda: InferenceSampler(8))
    assert [list(sampler) for sampler in samplers] == [[0, 1, 2], [3, 4, 5], [6, 7]]
    assert [len(sampler) for sampler in samplers] == [3, 3, 2]


def test_processes_without_an_item_have_an_empty_shard(ranks):
    assert [list(sampler) for sampler in ranks(3, lambda: InferenceSampler(2))] == [[0], [1], []]


@pytest.mark.parametrize("size, error", [(0, ValueError), (-1, ValueError), (2.0, TypeError)])
def test_a_training_sampler_needs_a_positive_whole_size(size, error):
    with pytest.raises(error):
        TrainingSampler(size)


def test_repeat_factors_are_those_of_the_rarest_category():
    images = [{"annotations": [{"category_id": c} for c in cats]} for cats in ([0, 0], [0], [0, 1], [0])]
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(images, repeat_thresh=1.0)
    # category 0 is in all 4 images, category 1 in one: sqrt(1 / 0.25) = 2
    np.testing.assert_allclose(factors, [1, 1, 2, 1])
    factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(images, 0.5, sqrt=False)
    np.testing.assert_allclose(factors, [1, 1, 2, 1])


def test_items_come_as_often_as_their_repeat_factor():
    sampler = RepeatFactorTrainingSampler(torch.tensor([1.0, 2.0, 1.5]), shuffle=False, seed=0)
    indices = first(4500, sampler)
    assert indices[:3] == [0, 1, 1] and set(indices) == {0, 1, 2}
    share = np.bincount(indices) / len(indices)
    np.testing.assert_allclose(share, np.array([1, 2, 1.5]) / 4.5, atol=0.01)


@pytest.mark.parametrize("serialize", [True, False])
def test_changing_an_item_leaves_the_list_as_it_is(serialize):
    dataset = DatasetFromList([{"a": [1]}, {"a": [2, 3]}, {}], serialize=serialize)
    dataset[1]["a"].append(4)
    assert len(dataset) == 3
    assert [dataset[i] for i in range(3)] == [{"a": [1]}, {"a": [2, 3]}, {}]


def test_without_copy_and_serialization_the_items_are_the_same_objects():
    items = [{"a": 1}]
    assert DatasetFromList(items, copy=False, serialize=False)[0] is items[0]


def test_an_item_that_the_mapper_rejects_is_replaced_by_another():
    dataset = MapDataset([0, 1, 2, 3], lambda x: None if x in (1, 2) else 10 * x)
    assert len(dataset) == 4
    assert dataset[0] == 0 and dataset[3] == 30
    assert dataset[1] in (0, 30) and dataset[2] in (0, 30)


def test_a_mapper_that_rejects_everything_is_an_error():
    # The stand-in by its own name: Detectron2 would go on trying.
    with pytest.raises(RuntimeError, match="None"):
        LiteMapDataset([0, 1, 2], lambda x: None)[1]


def test_rejected_items_of_an_iterable_dataset_are_left_out():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            yield from range(5)

    assert list(MapDataset(Stream(), lambda x: None if x % 2 else x)) == [0, 2, 4]


@pytest.fixture
def png(tmp_path):
    """A dataset dict of a 5 x 5 image whose blue is the column, green the row, and red 9."""
    pixels = np.full((5, 5, 3), 9, dtype=np.uint8)
    pixels[..., 1], pixels[..., 2] = np.arange(5)[:, None], np.arange(5)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    boxes = [[0, 0, 2, 3], [1, 1, 1, 4], [2, 2, 5, 5]]
    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": i, "iscrowd": int(i == 2)}
        for i, box in enumerate(boxes)
    ]
    return {
        "file_name": str(tmp_path / "image.png"),
        "height": 5,
        "width": 5,
        "image_id": 3,
        "annotations": annotations,
    }


def test_the_mapper_gives_image_and_instances_for_training(png):
    mapper = DatasetMapper(is_train=True, augmentations=[transforms.HFlipTransform(5)], image_format="BGR")
    result = mapper(png)
    assert result["image"].dtype == torch.uint8 and result["image"].shape == (3, 5, 5)
    assert result["image"][0, 1].tolist() == [4, 3, 2, 1, 0] and result["image"][2].unique().tolist() == [9]
    # the second box is empty, the third a crowd
    np.testing.assert_array_equal(result["instances"].gt_boxes.tensor, [[3, 0, 5, 3]])
    assert result["instances"].gt_classes.tolist() == [0] and result["instances"].image_size == (5, 5)
    assert result["image_id"] == 3 and "annotations" not in result
    assert len(png["annotations"]) == 3 and "image" not in png


def test_the_mapper_gives_no_annotations_for_inference(png):
    mapper = DatasetMapper(is_train=False, augmentations=[transforms.Resize((10, 15))], image_format="RGB")
    result = mapper(png)
    assert result["image"].shape == (3, 10, 15) and (result["height"], result["width"]) == (5, 5)
    assert "annotations" not in result and "instances" not in result


def test_an_image_without_annotations_gives_no_instances_for_training(png):
    mapper = DatasetMapper(is_train=True, augmentations=[], image_format="BGR")
    assert len(mapper({**png, "annotations": []})["instances"]) == 0
    del png["annotations"]
    assert "instances" not in mapper(png)


def test_the_mapper_follows_the_configuration(png):
    cfg = get_cfg()
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.FORMAT = (20,), 10, "RGB"
    assert DatasetMapper(cfg, True)(png)["image"].shape == (3, 20, 20)
    assert DatasetMapper(cfg, is_train=False)(png)["image"].shape == (3, 10, 10)
    cfg.INPUT.CROP.ENABLED, cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE = True, "absolute", [1, 5]
    cfg.INPUT.MAX_SIZE_TRAIN = 10
    assert DatasetMapper(cfg, True)(png)["image"].shape == (3, 2, 10)


ITEMS = [{"id": i, "width": 2 + i % 2, "height": 2} for i in range(10)]


def identity(item):
    return item


def with_noise(item):
    return item["id"], np.random.randint(2**30), random.random(), torch.rand(1).item()


def test_the_training_loader_gives_lists_of_the_batch_size_without_an_end():
    loader = build_detection_train_loader(
        ITEMS,
        mapper=identity,
        sampler=TrainingSampler(10, shuffle=False),
        total_batch_size=4,
        aspect_ratio_grouping=False,
    )
    batches = first(4, loader)
    assert [[item["id"] for item in batch] for batch in batches] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9, 0, 1],
        [2, 3, 4, 5],
    ]


def test_grouped_batches_are_all_wide_or_all_tall():
    loader = build_detection_train_loader(
        ITEMS, mapper=identity, sampler=TrainingSampler(10, shuffle=False), total_batch_size=2
    )
    assert [[item["id"] for item in batch] for batch in first(4, loader)] == [[0, 2], [1, 3], [4, 6], [5, 7]]


def test_a_batch_is_what_the_collate_function_makes_of_it():
    loader = build_detection_test_loader(ITEMS, mapper=identity, batch_size=4, collate_fn=len)
    assert list(loader) == [4, 4, 2]
    loader = build_detection_train_loader(ITEMS, mapper=identity, total_batch_size=3, collate_fn=len)
    assert first(2, loader) == [3, 3]


def test_the_test_loader_gives_each_item_once_in_order():
    loader = build_detection_test_loader(ITEMS, mapper=None)
    assert len(loader) == 10 and [batch[0]["id"] for batch in loader] == list(range(10))


def test_workers_share_the_items_and_follow_the_seed():
    def batches():
        seed_all_rng(7)
        sampler = TrainingSampler(10, shuffle=False)
        loader = build_detection_train_loader(
            ITEMS, mapper=with_noise, sampler=sampler, total_batch_size=2, num_workers=2, aspect_ratio_grouping=False
        )
        return first(5, loader)

    once = batches()
    assert sorted(item[0] for batch in once for item in batch) == list(range(10))
    assert once == batches()
    for position in (1, 2, 3):
        assert len({item[position] for batch in once for item in batch}) == 10


def test_the_batch_size_must_be_positive():
    with pytest.raises(AssertionError):
        build_detection_train_loader(ITEMS, mapper=None, sampler=TrainingSampler(10, seed=0), total_batch_size=0)


@pytest.fixture
def cfg(png):
    name = f"test_{uuid.uuid4().hex}"
    DatasetCatalog.register(name, lambda: [png, {**png, "image_id": 4, "annotations": []}])
    MetadataCatalog.get(name).thing_classes = ["a", "b", "c"]
    cfg = get_cfg()
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST, cfg.DATALOADER.NUM_WORKERS = (name,), (name,), 0
    cfg.SOLVER.IMS_PER_BATCH, cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = 3, (10,), 5
    yield cfg
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


def test_loaders_follow_the_configuration(cfg):
    batch = first(1, build_detection_train_loader(cfg))[0]
    assert [item["image_id"] for item in batch] == [3, 3, 3]  # the image without annotations is filtered
    assert batch[0]["image"].shape == (3, 10, 10) and len(batch[0]["instances"]) == 1
    tested = [item for (item,) in build_detection_test_loader(cfg, cfg.DATASETS.TEST[0])]
    assert [item["image_id"] for item in tested] == [3, 4] and tested[0]["image"].shape == (3, 5, 5)


def test_a_given_argument_goes_before_the_configuration(cfg):
    loader = build_detection_train_loader(cfg, mapper=identity, total_batch_size=1)
    assert [item["image_id"] for item in first(1, loader)[0]] == [3]
    assert "image" not in next(iter(build_detection_test_loader(cfg, cfg.DATASETS.TEST[0], mapper=identity)))[0]


def test_rare_images_are_repeated_where_the_configuration_says_so(cfg):
    cfg.DATALOADER.SAMPLER_TRAIN, cfg.DATALOADER.REPEAT_THRESHOLD = "RepeatFactorTrainingSampler", 0.5
    assert len(first(1, build_detection_train_loader(cfg))[0]) == 3


def test_an_unknown_training_sampler_is_an_error_that_names_it(cfg):
    cfg.DATALOADER.SAMPLER_TRAIN = "NoSuchSampler"
    with pytest.raises(ValueError, match="NoSuchSampler"):
        build_detection_train_loader(cfg)
