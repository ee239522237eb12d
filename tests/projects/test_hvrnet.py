"""HVR-Net's head against the slow reference of its equations, and its configurations."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.models import DIM, IMAGE_SIZE, ROOT, build_detector, make_targets, make_video, tiny_cfg
from helpers.proposals import random_proposals
from reference.hvrnet import Video, hvr_inference, hvr_training
from vod2 import UserError
from vod2.d2 import Box2BoxTransform, Boxes, EventStorage, Instances, build_model
from vod2.engine import load_config
from vod2.modeling import Aggregated
from vod2.projects.hvrnet import HVRAggregator
from vod2.projects.hvrnet.auxiliary import AuxiliaryHead
from vod2.projects.hvrnet.inter import InterVideo, RelatedClip
from vod2.structures import Clip, Frame, Role, TemporalContext
from vod2.temporal import build_training_schedule

SMALL, CLASSES, CHANNELS = 8, 3, 5
KEYS = {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "HVRAggregator", "MODEL.ROI_BOX_HEAD.NAME": "LinearBoxHead"}


def make_hvr(**arguments) -> HVRAggregator:
    """A head of 8 features whose weights are large enough for every term to matter."""
    torch.manual_seed(0)
    hvr = HVRAggregator(**({"dim": SMALL, "num_classes": CLASSES, "support_topk": 5} | arguments))
    for parameter in hvr.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return hvr.double()


def make_clip(
    name: str, labels: list[int], rng: torch.Generator, supports: tuple[int, ...] = (3, 2), with_key: bool = True
) -> Clip:
    """A training clip: a key proposal for each label (K for the background), so many proposals of each support."""

    def frame(index: int, proposals) -> Frame:
        maps = {"res4": torch.randn(1, CHANNELS, 4, 6, generator=rng, dtype=torch.float64)}
        return Frame(name, index, IMAGE_SIZE, maps, proposals)

    query = random_proposals(len(labels), SMALL, rng, requires_grad=True)
    targets = Instances(IMAGE_SIZE, gt_classes=torch.tensor(labels, dtype=torch.int64))
    key = frame(7, query).with_(targets=targets)
    truth = Instances(IMAGE_SIZE, gt_classes=targets.gt_classes[targets.gt_classes < CLASSES])
    others = [
        frame(index, random_proposals(count, SMALL, rng, requires_grad=True)) for index, count in enumerate(supports)
    ]
    if with_key:
        return Clip(key, TemporalContext((key, *others), (Role.KEY, *[Role.GLOBAL] * len(others))), truth)
    return Clip(key, TemporalContext(tuple(others), (Role.GLOBAL,) * len(others)), truth)


def make_batch(*clips: tuple, seed: int = 0, **options) -> list[Clip]:
    """Of (name, labels) each."""
    rng = torch.Generator().manual_seed(seed)
    return [make_clip(name, labels, rng, **options) for name, labels in clips]


def as_video(clip: Clip) -> Video:
    key = clip.key
    maps = [frame.features["res4"][0] for frame in (key, *clip.supports)]
    frames = [(list(frame.proposals.features[:5]), frame.index == key.index) for frame in clip.context.frames]
    labels, classes = key.targets.gt_classes.tolist(), set(clip.targets.gt_classes.tolist())
    return Video(key.video_id, list(key.proposals.features), frames, labels, classes, maps)


def run(hvr: HVRAggregator, batch: list[Clip]) -> list[Aggregated[Tensor]]:
    return hvr.forward_clips(batch)


def stacked(values: list[Tensor]) -> Tensor:
    return torch.stack(values) if values else torch.zeros(0, SMALL, dtype=torch.float64)


def assert_equals_reference(hvr: HVRAggregator, batch: list, **options) -> None:
    """Values, losses and the gradient of both with respect to all parameters and embeddings."""
    found = run(hvr, batch)
    values, relation, auxiliary = hvr_training(
        dict(hvr.named_parameters()), [as_video(clip) for clip in batch], num_classes=CLASSES, **options
    )
    frames = {id(frame): frame for clip in batch for frame in (clip.key, *clip.context.frames)}
    inputs = [*hvr.parameters(), *(frame.proposals.features for frame in frames.values())]
    totals = [0 * sum(tensor.sum() for tensor in inputs) for _ in range(2)]  # a graph even without proposals
    for one, value, of_relation, of_classes in zip(found, values, relation, auxiliary, strict=True):
        torch.testing.assert_close(one.value, stacked(value), rtol=1e-9, atol=1e-10)
        expected = {"loss_relation": of_relation, "loss_cls_intra": of_classes}
        torch.testing.assert_close(dict(one.losses), expected, rtol=1e-9, atol=1e-10)
        totals[0] = totals[0] + one.value.pow(2).sum() + 2 * one.losses["loss_relation"] + one.losses["loss_cls_intra"]
        totals[1] = totals[1] + stacked(value).pow(2).sum() + 2 * of_relation + of_classes
    actual, expected = (torch.autograd.grad(total, inputs, allow_unused=True) for total in totals)
    for own, wanted, tensor in zip(actual, expected, inputs, strict=True):
        own, wanted = (torch.zeros_like(tensor) if one is None else one for one in (own, wanted))
        torch.testing.assert_close(own, wanted, rtol=1e-7, atol=1e-9)


TRIPLETS = (("a", [0, 1, 3]), ("b", [0, 3]), ("c", [2, 0, 3, 3]), ("d", [2, 2]), ("e", [1, 3]), ("f", [0, 0]))


@pytest.mark.parametrize(
    "arguments, options",
    [
        pytest.param({}, {}, id="default"),
        pytest.param({"num_intra": 2}, {"num_intra": 2}, id="two intra"),
        pytest.param({"num_inter": 2}, {"num_inter": 2}, id="two inter"),
        pytest.param({"inter": {"proposals": "all"}}, {"all_proposals": True}, id="all proposals"),
        pytest.param(
            {"inter": {"proposal_similarity": "dot", "margin": 10.0}}, {"d": "dot", "margin": 10.0}, id="dot products"
        ),
        pytest.param({"inter": {"proposal_similarity": "euclidean"}}, {"d": "euclidean"}, id="distances"),
        pytest.param({"skip": "initial"}, {"skip_both": False}, id="initial supports alone"),
        pytest.param({"inter": {"share": 0.5}}, {"alone": (1, 3, 5)}, id="half of the videos within themselves"),
        pytest.param(
            {"inter": {"share": 0.5}, "num_inter": 2},
            {"alone": (1, 3, 5), "num_inter": 2},
            id="half of the videos within themselves, twice",
        ),
        pytest.param(
            {"inter": {"share": 0.0}, "test_inter": "none"},
            {"alone": (0, 1, 2, 3, 4, 5), "within": False},
            id="no video takes anything",
        ),
        pytest.param(
            {"inter": {"video_similarity": "max", "video_negative": "both"}},
            {"video_similarity": "max", "like_both": True},
            id="V- like target and V+",
        ),
        pytest.param(
            {"inter": {"mining": "kernel", "proposal_similarity": "dot", "margin": 10.0}},
            {"by_kernel": True, "d": "dot", "margin": 10.0},
            id="mined by the kernel",
        ),
    ],
)
@pytest.mark.parametrize("with_key", [True, False])
def test_a_training_step_is_equations_one_to_six(arguments, options, with_key):
    assert_equals_reference(make_hvr(**arguments), make_batch(*TRIPLETS, with_key=with_key), **options)


@pytest.mark.parametrize(
    "clips",
    [
        pytest.param([("a", [0, 1, 3])], id="one clip"),
        pytest.param([("a", [0, 3]), ("a", [0, 1])], id="the same video twice"),
        pytest.param([("a", [0, 3]), ("a", [0, 1]), ("b", [0, 2])], id="the same video twice and another"),
        pytest.param([("a", [0, 3]), ("b", [1, 3]), ("c", [2, 3])], id="one video of each class"),
        pytest.param([("a", [0, 3]), ("b", [0])], id="one class"),
        pytest.param([("a", [3, 3]), ("b", [0, 3]), ("c", [0])], id="a key frame without foreground"),
        pytest.param([("a", []), ("b", [0, 3]), ("c", [0])], id="a key frame without proposals"),
        pytest.param([("a", []), ("b", [])], id="no proposals at all"),
    ],
)
@pytest.mark.parametrize("supports", [(3, 2), (0,), ()], ids=["supports", "none in the support", "no supports"])
@pytest.mark.parametrize("with_key", [True, False])
def test_any_batch_works_and_leaves_no_parameter_without_gradient(clips, supports, with_key):
    """DistributedDataParallel waits for the gradient of every parameter, even if it is 0."""
    hvr, batch = make_hvr(), make_batch(*clips, supports=supports, with_key=with_key)
    assert_equals_reference(hvr, batch)
    found = run(hvr, batch)
    sum(one.value.sum() + sum(one.losses.values()) for one in found).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in hvr.parameters())


@pytest.mark.parametrize("supports", [(3, 2), (0,), ()], ids=["supports", "none in the support", "no supports"])
@pytest.mark.parametrize("test_inter", ["video", "none"])
def test_videos_that_take_nothing_from_others_leave_no_parameter_without_gradient(supports, test_inter):
    hvr = make_hvr(inter={"share": 0.0}, test_inter=test_inter)
    batch = make_batch(("a", [0, 3]), ("b", []), supports=supports, with_key=False)
    assert_equals_reference(hvr, batch, alone=(0, 1), within=test_inter == "video")
    sum(one.value.sum() + sum(one.losses.values()) for one in run(hvr, batch)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in hvr.parameters())


def test_losses_without_a_triplet_are_zero_and_hang_on_the_graph():
    (found,) = run(make_hvr(), make_batch(("a", [0, 3])))
    assert found.losses["loss_relation"].item() == 0 and found.losses["loss_relation"].requires_grad


@pytest.mark.parametrize(
    "num_intra, num_inter, skip", [(3, 1, "both"), (3, 1, "initial"), (2, 1, "both"), (3, 2, "both"), (3, 0, "both")]
)
@pytest.mark.parametrize("test_inter", ["none", "video"])
def test_in_inference_the_relation_between_videos_is_dropped_or_looks_at_the_video(
    num_intra, num_inter, skip, test_inter
):
    hvr = make_hvr(num_intra=num_intra, num_inter=num_inter, skip=skip, test_inter=test_inter).eval()
    batch = make_batch(("a", [0, 1, 3]), ("b", [0]))
    state = dict(hvr.named_parameters())
    for one, clip in zip(run(hvr, batch), batch, strict=True):
        expected = hvr_inference(
            state,
            as_video(clip),
            num_intra=num_intra,
            num_inter=num_inter,
            within=test_inter == "video",
            skip_both=skip == "both",
        )
        torch.testing.assert_close(one.value, stacked(expected), rtol=1e-9, atol=1e-10)
        assert one.losses == {}


def test_the_key_frame_is_known_in_its_context_by_its_number_whatever_its_role():
    hvr = make_hvr().eval()
    (clip,) = make_batch(("a", [0, 1]))
    key, context = clip.key, clip.context
    unnamed = TemporalContext(context.frames, (Role.GLOBAL,) * len(context))
    expected = hvr.forward_clips([Clip(key, context)])[0].value
    assert hvr.forward_clips([Clip(key, unnamed)])[0].value.equal(expected)
    assert hvr(key.proposals, context).value.equal(expected)
    assert not torch.allclose(hvr(key.proposals, unnamed).value, expected)


@pytest.mark.parametrize("similarity", ["mean", "max"])
def test_padding_is_no_part_of_a_video(similarity):
    """Maps of 4 x 6 cells belong to 64 x 96 pixels; the smaller frame fills 3 x 2 of them."""
    hvr, batch = make_hvr(inter={"video_similarity": similarity}), make_batch(*TRIPLETS)
    small = (41, 32)
    shrunk = batch[0].with_frames(
        batch[0].key.with_(image_size=small), [frame.with_(image_size=small) for frame in batch[0].supports]
    )

    def similarities(filling: float) -> Tensor:
        for frame in (shrunk.key, *shrunk.supports):
            frame.features["res4"][..., 3:, :] = filling
            frame.features["res4"][..., :, 2:] = filling
        clips = [RelatedClip(clip, clip.key.proposals.features) for clip in (shrunk, *batch[1:])]
        return hvr.inter._video_similarities(clips)

    assert similarities(0.0).equal(similarities(9.0))


def test_random_partners_come_from_the_global_generator_and_need_no_maps():
    hvr = make_hvr(inter={"video_similarity": "random", "proposals": "all"})
    batch = [
        clip.with_frames(clip.key.with_(features={}), [frame.with_(features={}) for frame in clip.supports])
        for clip in make_batch(*TRIPLETS)
    ]
    values = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        values.append(torch.cat([one.value for one in run(hvr, batch)]))
    assert values[0].equal(values[1]) and not torch.allclose(values[0], values[2])


def test_a_weight_of_zero_switches_a_loss_off():
    hvr = make_hvr(auxiliary_weight=0.0, inter={"relation_weight": 0.0})
    assert hvr.auxiliary is None and all(one.losses == {} for one in run(hvr, make_batch(*TRIPLETS)))


def test_weights_scale_the_losses():
    batch = make_batch(*TRIPLETS)
    plain = run(make_hvr(), batch)
    for one, other in zip(
        plain, run(make_hvr(auxiliary_weight=2.0, inter={"relation_weight": 3.0}), batch), strict=True
    ):
        torch.testing.assert_close(other.losses["loss_cls_intra"], 2 * one.losses["loss_cls_intra"])
        torch.testing.assert_close(other.losses["loss_relation"], 3 * one.losses["loss_relation"])
    assert any(one.losses["loss_relation"] > 0 for one in plain)


def test_the_auxiliary_branch_regresses_the_boxes_of_the_foreground():
    """By hand: the second RoI is to move by a tenth of its size, 1 in units of the weights 10; the layer says 0."""
    head = AuxiliaryHead(2, CLASSES, weight=2.0, box_dim=4, transform=Box2BoxTransform((10.0, 10.0, 5.0, 5.0)))
    torch.nn.init.zeros_(head.boxes.weight)
    rois = Instances(IMAGE_SIZE, gt_classes=torch.tensor([CLASSES, 1]))
    rois.proposal_boxes = Boxes(torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 20.0, 10.0]]))
    rois.gt_boxes = Boxes(torch.tensor([[0.0, 0.0, 10.0, 10.0], [2.0, 0.0, 22.0, 10.0]]))
    losses = head.losses(torch.ones(2, 2), rois)
    assert losses["loss_box_reg_intra"].item() == pytest.approx(2.0 * (1 - 0.5) / 2)  # smooth L1 of 1, over both RoIs
    assert set(losses) == {"loss_cls_intra", "loss_box_reg_intra"}


def assert_all_learn(model: torch.nn.Module) -> None:
    """The detector gives unused parameters a gradient of 0, so that one must be another number; but that a key's bias
    moves all logits of a row alike, which softmax does not see."""
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert name.endswith("key.bias") or parameter.grad.ne(0).any(), name


@pytest.mark.parametrize("agnostic", [True, False])
def test_the_detector_of_the_public_code_trains_with_gradients_for_all(agnostic):
    model = build_detector(
        KEYS
        | {
            "MODEL.ROI_BOX_HEAD.CLS_AGNOSTIC_BBOX_REG": agnostic,
            "MODEL.HVRNET.AUXILIARY_BOXES": True,
            "MODEL.HVRNET.MINING": "kernel",
            "MODEL.HVRNET.PROPOSALS": "all",
            "MODEL.HVRNET.PROPOSAL_SIMILARITY": "dot",
            "MODEL.HVRNET.MARGIN": 10.0,
        }
    ).train()
    torch.manual_seed(0)
    with EventStorage():
        losses = model([training_clip("a", [1, 3], 1), training_clip("b", [1, 1], 2), training_clip("c", [0, 2], 3)])
    assert losses["loss_box_reg_intra"] > 0 and losses["loss_relation"] > 0
    sum(losses.values()).backward()
    assert_all_learn(model)


def test_half_precision_trains():
    hvr, batch = make_hvr().float(), make_batch(*TRIPLETS)
    single = [clip.with_frames(as_float(clip.key), [as_float(frame) for frame in clip.supports]) for clip in batch]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run(hvr, single)
    sum(one.value.float().sum() + sum(one.losses.values()) for one in found).backward()
    assert all(one.losses["loss_relation"].dtype == torch.float32 for one in found)
    assert all(p.grad.isfinite().all() for p in hvr.parameters())


def as_float(frame: Frame) -> Frame:
    own = frame.proposals
    return frame.with_(
        proposals=replace(own, boxes=own.boxes.float(), features=own.features.float(), scores=own.scores.float())
    )


def training_clip(name: str, classes: list[int], seed: int, **fields) -> dict:
    images = make_video(3, seed)
    targets = make_targets()
    targets.gt_classes = torch.tensor(classes)
    support = [{"frame_index": 1, "role": Role.KEY}]
    support += [{"image": images[i], "frame_index": i, "role": Role.GLOBAL} for i in (0, 2)]
    clip = {"image": images[1], "video_id": name, "frame_index": 1, "instances": targets, "support": support}
    return clip | fields


@pytest.mark.parametrize("drawn", [True, False], ids=["TripletVideos", "ordinary batches"])
def test_the_detector_trains_on_clips_of_several_videos_and_a_still_image(drawn):
    model = build_detector(KEYS).train()
    image = make_video(1, seed=9)[0]
    still = training_clip("still", [1, 2], 4) | {
        "image": image,
        "frame_index": 0,
        "support": [{"frame_index": 0, "role": Role.KEY}, *[{"image": image, "frame_index": 0}] * 2],
    }
    clips = [training_clip("a", [1, 3], 1), training_clip("b", [1, 1], 2), training_clip("c", [0, 2], 3), still]
    if drawn:
        clips = [clip | {"triplet_class": c} for clip, c in zip(clips, [1, 1, 2, 2], strict=True)]
    torch.manual_seed(0)
    with EventStorage():
        losses = model(clips)
    assert losses["loss_relation"] > 0
    sum(losses.values()).backward()
    assert_all_learn(model)


def test_the_configuration_keys_arrive():
    node = {
        "NUM_INTRA": 2,
        "NUM_INTER": 2,
        "VIDEO_SIMILARITY": "max",
        "VIDEO_LEVEL": "res5",
        "PROPOSALS": "all",
        "PROPOSAL_SIMILARITY": "dot",
        "MARGIN": 10.0,
        "RELATION_WEIGHT": 0.5,
        "AUXILIARY_WEIGHT": 0.25,
        "AUXILIARY_BOXES": True,
        "TEST_INTER": "none",
        "SKIP": "initial",
        "VIDEO_NEGATIVE": "both",
        "MINING": "kernel",
        "INTER_SHARE": 0.25,
    }
    hvr = HVRAggregator(tiny_cfg(KEYS | {f"MODEL.HVRNET.{name}": value for name, value in node.items()}), DIM)
    assert (hvr.num_intra, len(hvr.relation), len(hvr.transform), hvr.support_topk) == (2, 4, 3, 6)
    assert (hvr.auxiliary.loss_weight, hvr.looks_within, hvr.inter.video_level) == (0.25, False, "res5")
    assert not hvr.skips_both and hvr.auxiliary.boxes.out_features == 4 * 5
    inter = hvr.inter
    assert (inter.video_similarity, inter.all_proposals, inter.proposal_similarity) == ("max", True, "dot")
    assert (inter.margin, inter.relation_weight, inter.num_classes) == (10.0, 0.5, 5)
    assert (inter.like_both, inter.by_kernel, inter.share) == (True, True, 0.25)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"num_intra": 4}, "NUM_INTRA of 2 or 3 and NUM_INTER of at least 0, got 4, 1"),
        ({"num_inter": -1}, "got 3, -1"),
        ({"test_inter": "all"}, "TEST_INTER to be one of video, none, got 'all'"),
        ({"skip": "none"}, "SKIP to be one of both, initial, got 'none'"),
        ({"inter": {"mining": "random"}}, "MINING to be one of features, kernel"),
        ({"inter": {"video_negative": "positive"}}, "VIDEO_NEGATIVE to be one of target, both"),
        ({"inter": {"proposals": "easy"}}, "PROPOSALS to be one of hard, all, got 'easy'"),
        ({"inter": {"video_similarity": "min"}}, "VIDEO_SIMILARITY to be one of mean, max, random"),
        ({"inter": {"proposal_similarity": "l2"}}, "PROPOSAL_SIMILARITY to be one of cosine, dot, euclidean"),
    ],
)
def test_values_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_hvr(**arguments)


def test_a_box_head_that_ends_with_an_activation_is_refused():
    with pytest.raises(UserError, match="set MODEL.ROI_BOX_HEAD.NAME to 'LinearBoxHead'"):
        HVRAggregator(tiny_cfg({"MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead"}), DIM)


def shapes(name: str) -> dict[str, torch.Size]:
    cfg = load_config(str(ROOT / "configs" / name), ["MODEL.DEVICE", "meta"])
    with torch.device("meta"):
        return {key: value.shape for key, value in build_model(cfg).state_dict().items()}


@pytest.mark.parametrize(
    "first, second, added",
    [
        ("HVRNet_Intra_R101.yaml", "HVRNet_R101.yaml", {"transform.2", "relation.3"}),
        ("HVRNet_Intra_X101.yaml", "HVRNet_X101.yaml", {"transform.2", "relation.3"}),
        ("ablations/hvrnet.yaml:Intra2_Intra", "ablations/hvrnet.yaml:Intra2", {"transform.1", "relation.2"}),
        (
            "HVRNet_Intra_R101.yaml",
            "ablations/hvrnet.yaml:PublicCode",
            {"transform.2", "relation.3", "auxiliary"},
        ),
        (
            "SELSA_R101.yaml",
            "HVRNet_R101.yaml",
            {"transform.1", "transform.2", "relation.2", "relation.3", "auxiliary"},
        ),
    ],
)
def test_the_weights_of_the_first_stage_fit_the_second(first, second, added):
    before, after = shapes(first), shapes(second)
    assert not before.items() - after.items()
    new = {key.removeprefix("roi_heads.aggregator.") for key in after.keys() - before.keys()}
    assert {".".join(key.split(".")[: 1 if key.startswith("auxiliary") else 2]) for key in new} == added


@pytest.mark.parametrize("name", ["HVRNet_R101", "HVRNet_X101"])
def test_the_published_configurations_train_twelve_epochs_with_a_drop_after_ten(name):
    cfg = load_config(str(ROOT / "configs" / f"{name}.yaml"))
    epoch = 57_834 / (cfg.SOLVER.IMS_PER_BATCH / 9)  # in updates; a target comes with its eight support videos
    assert abs(cfg.SOLVER.MAX_ITER - 12 * epoch) < 1 and abs(cfg.SOLVER.STEPS[0] - 10 * epoch) < 1
    assert cfg.SOLVER.MAX_ITER == 86_751
    drawn = build_training_schedule(cfg).sample(5, 20, np.random.default_rng(0))
    assert [role for _, role in drawn] == [Role.KEY, Role.GLOBAL, Role.GLOBAL] and drawn[1].index < 5 < drawn[2].index
    assert cfg.SOLVER.BASE_LR == 0.0015 and cfg.VIDEO.TEST_SCHEDULE.COUNT == 31
    assert cfg.SOLVER.IMS_PER_BATCH == 8 * cfg.DATALOADER.TRIPLET.NUM_CLASSES * cfg.DATALOADER.TRIPLET.NUM_VIDEOS


@pytest.mark.parametrize(
    "name, key, value",
    [
        ("Simple", "MODEL.HVRNET.VIDEO_SIMILARITY", "random"),
        ("NoRelationLoss", "MODEL.HVRNET.RELATION_WEIGHT", 0.0),
        ("Intra2", "MODEL.HVRNET.NUM_INTRA", 2),
        ("Inter2", "MODEL.HVRNET.NUM_INTER", 2),
        ("PublicCode", "MODEL.HVRNET.MINING", "kernel"),
        ("PublicCode", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", 35.0),
        ("Euclidean", "MODEL.HVRNET.PROPOSAL_SIMILARITY", "euclidean"),
        ("FasterRCNN", "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME", ""),
        *((f"Test{count}", "VIDEO.TEST_SCHEDULE.COUNT", count) for count in (5, 11, 17, 21)),
    ],
)
def test_an_ablation_changes_what_it_says(name, key, value):
    cfg = load_config(f"{ROOT}/configs/ablations/hvrnet.yaml:{name}")
    for part in key.split("."):
        cfg = cfg[part]
    assert cfg == value


@pytest.mark.parametrize("share, taking", [(1.0, [0, 1, 2, 3]), (0.5, [0, 2]), (0.25, [0]), (0.0, [])])
def test_a_share_of_the_videos_takes_from_others_and_the_rest_is_alone(share, taking):
    inter = InterVideo(num_classes=5, share=share)
    assert [i for i in range(4) if inter.takes(i)] == taking


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match=r"INTER_SHARE in \[0, 1\], got"):
        InterVideo(num_classes=5, share=share)
