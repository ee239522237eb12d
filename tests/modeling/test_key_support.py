"""The key frame as a support of itself (Role.KEY): not encoded twice, and its sampled RoIs are what is looked at."""

import torch

from helpers.models import build_detector, make_targets, make_video
from vod2.d2 import EventStorage, GeneralizedRCNN
from vod2.structures import Role

KEY = {"frame_index": 0, "role": Role.KEY}
RDN = {"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "RDNAggregator", "MODEL.VIDEO.SUPPORT_TOPK": 300}


def clip_of(images, **fields) -> dict:
    """The first image as key frame and its own support, then the others as supports."""
    others = [{"image": image, "frame_index": i, "role": Role.GLOBAL} for i, image in enumerate(images[1:], start=1)]
    return {"image": images[0], "video_id": "v", "frame_index": 0, "support": [KEY, *others], **fields}


def calls_of(model: GeneralizedRCNN, clips: list[dict]) -> list[tuple]:
    """(query, context) of each call of the aggregator."""
    calls = []
    model.roi_heads.aggregator.register_forward_hook(lambda module, inputs, out: calls.append(inputs))
    torch.manual_seed(0)
    with EventStorage():
        model(clips)
    return calls


def test_in_training_the_key_frame_in_the_context_has_the_sampled_rois_in_order():
    model = build_detector(RDN).train()
    images = make_video(5)
    clips = [clip_of(images[:2], instances=make_targets()), clip_of(images[2:], instances=make_targets())]
    calls = calls_of(model, clips)
    assert [context.roles for _, context in calls] == [
        (Role.KEY, Role.GLOBAL),
        (Role.KEY, Role.GLOBAL, Role.GLOBAL),
    ]
    for query, context in calls:
        own = context.frames[0].proposals
        assert own.scores.equal(own.scores.sort(descending=True).values) and not own.scores.equal(query.scores)
        rows = query.scores.argsort(descending=True, stable=True)
        assert own.boxes.equal(query.boxes[rows]) and own.features.equal(query.features[rows])
        assert [frame.index for frame in context.frames] == list(range(len(context)))


def test_the_gradient_comes_through_both_roles_of_a_roi():
    query, context = calls_of(build_detector(RDN).train(), [clip_of(make_video(1), instances=make_targets())])[0]
    (grad,) = torch.autograd.grad(context.frames[0].proposals.features.sum(), query.features)
    assert grad.eq(1).all()


def test_in_inference_all_of_its_proposals_are_looked_at():
    query, context = calls_of(build_detector(RDN), [clip_of(make_video(2))])[0]
    assert len(query) == 16 and context.frames[0].proposals.boxes.equal(query.boxes)


def test_the_key_frame_is_encoded_once():
    model, sizes = build_detector(RDN), []
    model.backbone.register_forward_hook(lambda module, inputs, out: sizes.append(len(inputs[0])))
    model([clip_of(make_video(3)), clip_of(make_video(1))])
    assert sizes == [4]
