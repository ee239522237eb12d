"""What is said of keys: components are built of those that they declare, and those that nothing reads are found."""

import copy

import pytest

from helpers.models import tiny_cfg
from vod2 import keys
from vod2.d2 import BACKBONE_REGISTRY, META_ARCH_REGISTRY, PROPOSAL_GENERATOR_REGISTRY, ROI_HEADS_REGISTRY, CfgNode
from vod2.engine.config_docs import added_keys
from vod2.errors import UserError
from vod2.keys import BuiltOfKeys, build_of_keys, default_config, is_read, leaves, read_when, unread_keys, when_read
from vod2.modeling import (
    BOX_LINKER_REGISTRY,
    PIXEL_AGGREGATOR_REGISTRY,
    PROPOSAL_AGGREGATOR_REGISTRY,
    build_box_linker,
)
from vod2.modeling.pixel.aligner import ALIGNER_REGISTRY
from vod2.temporal import (
    SUPPORT_SCHEDULE_REGISTRY,
    TRAINING_SCHEDULE_REGISTRY,
    build_support_schedule,
    build_training_schedule,
)

NODES = {
    "VIDEO.TRAIN_SCHEDULE": (TRAINING_SCHEDULE_REGISTRY, build_training_schedule, {"NAME", "WITH_KEY"}),
    "VIDEO.TEST_SCHEDULE": (SUPPORT_SCHEDULE_REGISTRY, build_support_schedule, {"NAME"}),
    "MODEL.VIDEO.LINKER": (BOX_LINKER_REGISTRY, build_box_linker, {"NAME"}),
}
OTHER_VALUES = {  # of every key of these nodes: a legal one that is not its default
    "RADIUS": 4,
    "COUNT": 6,
    "MEMORY_COUNT": 1,
    "GLOBAL_COUNT": 1,
    "INCLUDE_KEY": False,
    "INTERVAL": 7,
    "TRIPLET": "online",
    "LOOKAHEAD": 0,
    "EDGE": "repeat",
    "LINK_IOU": 0.6,
    "LINK_SIMILARITY": 0.6,
    "SUPPRESS_IOU": 0.6,
    "RESCORE": "max",
    "TOP_SHARE": 0.25,
}


def cases(foreign: bool) -> list[tuple[str, str, str]]:
    """(node, name of a component, key of the node that it does or does not read)."""
    found = []
    for node, (registry, _, others) in NODES.items():
        names = [key.rpartition(".")[2] for key in added_keys() if key.rpartition(".")[0] == node]
        for name, kind in registry:
            read = set(kind.reads.values()) | others
            assert read <= set(names), f"{name} reads {sorted(read - set(names))}, which {node} has not"
            found += [(node, name, key) for key in names if key not in others and (key not in read) == foreign]
    return found


@pytest.mark.parametrize("node, name, key", cases(foreign=True))
def test_a_key_that_the_chosen_component_does_not_read_is_an_error_that_names_it(node, name, key):
    registry, build, _ = NODES[node]
    default = keys.value_of(default_config(), f"{node}.{key}")
    value = OTHER_VALUES[key]
    assert value != default
    with pytest.raises(UserError) as error:
        build(tiny_cfg({f"{node}.NAME": name, f"{node}.{key}": value}))
    message = str(error.value)
    assert message.startswith(f"{node}.{key} is {value!r}, but {node}.NAME '{name}' reads ")
    assert f"({key} {default!r})" in message and "\n" not in message
    assert all(read in message for read in dict(registry)[name].reads.values())
    assert all(other in message for other, kind in registry if key in kind.reads.values())
    assert build(tiny_cfg({f"{node}.NAME": name, f"{node}.{key}": default}))


@pytest.mark.parametrize("node, name, key", cases(foreign=False))
def test_a_key_that_the_chosen_component_reads_reaches_its_constructor(node, name, key, monkeypatch):
    registry, build, _ = NODES[node]
    kind, given = dict(registry)[name], {}
    original = kind.__init__

    def init(self, *arguments, **named):
        assert not arguments
        given.update(named)
        original(self, **named)

    monkeypatch.setattr(kind, "__init__", init)
    build(tiny_cfg({f"{node}.NAME": name, f"{node}.{key}": OTHER_VALUES[key]}))
    (argument,) = (argument for argument, its_key in kind.reads.items() if its_key == key)
    assert given[argument] == OTHER_VALUES[key]


def test_of_schedules_that_are_joined_one_reader_is_enough():
    values = {"NAME": "SlidingWindow+GlobalSample", "EDGE": "repeat", "INCLUDE_KEY": False}
    cfg = tiny_cfg({f"VIDEO.TEST_SCHEDULE.{key}": value for key, value in values.items()})
    sliding, sample = build_support_schedule(cfg).schedules
    assert sliding.edge == "repeat" and not sample.include_key
    cfg.VIDEO.TEST_SCHEDULE.INTERVAL = 3
    with pytest.raises(UserError, match=r"INTERVAL is 3, but .*'SlidingWindow \+ GlobalSample' .*read by Keyframes"):
        build_support_schedule(cfg)


def test_several_foreign_keys_are_one_error():
    cfg = tiny_cfg({"VIDEO.TEST_SCHEDULE.RADIUS": 3, "VIDEO.TEST_SCHEDULE.COUNT": 4})
    with pytest.raises(UserError, match=r"RADIUS is 3 and .*COUNT is 4, .*'NoWindow' reads no other .*RADIUS 18 COUNT"):
        build_support_schedule(cfg)


class Undeclared(BuiltOfKeys):
    """A component from elsewhere, which reads the node itself."""

    def __init__(self, radius: int) -> None:
        self.radius = radius

    @classmethod
    def from_config(cls, node: CfgNode) -> "Undeclared":
        return cls(node.RADIUS)


class Lying(Undeclared):
    """Reads a key that it does not declare."""

    reads = {"interval": "INTERVAL"}


def test_a_component_that_declares_nothing_gets_the_whole_node_and_one_that_declares_sees_nothing_else():
    cfg = tiny_cfg({"VIDEO.TEST_SCHEDULE.RADIUS": 3, "VIDEO.TEST_SCHEDULE.COUNT": 4})
    (built,) = build_of_keys({"Undeclared": Undeclared}.items(), cfg, "VIDEO.TEST_SCHEDULE", ["Undeclared"])
    assert built.radius == 3
    with pytest.raises(AttributeError, match="RADIUS"):
        build_of_keys({"Lying": Lying}.items(), tiny_cfg({}), "VIDEO.TEST_SCHEDULE", ["Lying"])


@pytest.fixture
def said(monkeypatch):
    """What is said in a test is forgotten after it."""
    monkeypatch.setattr(keys, "_READ_WHEN", copy.deepcopy(keys._READ_WHEN))


def found(**settings) -> list[str]:
    cfg = tiny_cfg({key.replace("__", "."): value for key, value in settings.items()})
    return [one.key for one in unread_keys(cfg)]


def test_unread_keys_are_those_that_are_set_without_the_key_that_they_depend_on():
    names = {"MODEL__ALIGNER__WIDTH": 8, "MODEL__VIDEO__LINKER__RESCORE": "max", "INPUT__SSD__HUE": 2.0}
    before = found()
    assert [key for key in found(**names) if key not in before] == [
        "MODEL.VIDEO.LINKER.RESCORE",
        "MODEL.ALIGNER.WIDTH",
        "INPUT.SSD.HUE",
    ]
    names |= {"MODEL__ALIGNER__NAME": "DAlign", "MODEL__VIDEO__PIXEL_AGGREGATOR__NAME": "MSTFrames"}
    names |= {"MODEL__VIDEO__LINKER__NAME": "SeqNMS", "INPUT__VIDEO_AUGMENTATION": "SSD"}
    assert not set(found(**names)) - set(before)


def test_a_condition_fails_where_its_own_key_is_not_read():
    flow = {"MODEL__ALIGNER__NAME": "FlowNetS", "MODEL__FLOWNET__WIDTH": 0.5}
    assert {"MODEL.ALIGNER.NAME", "MODEL.FLOWNET.WIDTH"} <= set(found(**flow))
    assert "MODEL.FLOWNET.WIDTH" not in found(**flow, MODEL__VIDEO__PIXEL_AGGREGATOR__NAME="LSTSAggregator")


def test_names_in_a_sum_count_alone_and_several_calls_are_alternatives(said):
    cfg = tiny_cfg({"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "MEGAAggregator+MSTAggregator"})
    assert is_read(cfg, "MODEL.MEGA.MEMORY") and is_read(cfg, "MODEL.MST.TOPK") and is_read(cfg, "MODEL.VIDEO.RELATION")
    assert not is_read(cfg, "MODEL.RDN.ADVANCED")
    read_when({"MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "MSTAggregator"}, "MODEL.RDN")
    assert is_read(cfg, "MODEL.RDN.ADVANCED")
    assert when_read("MODEL.RDN") == "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME is 'RDNAggregator' or 'MSTAggregator'"


def test_what_is_unread_says_its_value_and_when_it_would_be_read():
    (one,) = (one for one in unread_keys(tiny_cfg({"INPUT.SSD.HUE": 2.0})) if one.key.startswith("INPUT"))
    assert str(one) == "INPUT.SSD.HUE 2.0 (read when INPUT.VIDEO_AUGMENTATION is 'SSD')"


COMPONENTS = {
    "MODEL.META_ARCHITECTURE": META_ARCH_REGISTRY,
    "MODEL.BACKBONE.NAME": BACKBONE_REGISTRY,
    "MODEL.HEAD_MAP.BOTTOM_UP": BACKBONE_REGISTRY,
    "MODEL.PROPOSAL_GENERATOR.NAME": PROPOSAL_GENERATOR_REGISTRY,
    "MODEL.ROI_HEADS.NAME": ROI_HEADS_REGISTRY,
    "MODEL.VIDEO.PIXEL_AGGREGATOR.NAME": PIXEL_AGGREGATOR_REGISTRY,
    "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": PROPOSAL_AGGREGATOR_REGISTRY,
    "MODEL.ALIGNER.NAME": ALIGNER_REGISTRY,
}


@pytest.mark.parametrize("key", keys.keys_with_conditions())
def test_conditions_are_of_keys_and_values_that_exist(key):
    defaults = dict(leaves(default_config()))
    assert key in defaults or any(one.startswith(f"{key}.") for one in defaults)
    for conditions in keys.conditions_of(key):
        for name, wanted in conditions.items():
            assert name in defaults
            for value in wanted if isinstance(wanted, tuple) else (wanted,):
                if name in COMPONENTS and isinstance(value, str):
                    assert value in dict(COMPONENTS[name])


@pytest.mark.parametrize(
    "registry", [PIXEL_AGGREGATOR_REGISTRY, PROPOSAL_AGGREGATOR_REGISTRY], ids=["pixel", "proposal"]
)
def test_every_aggregator_says_which_keys_it_reads(registry):
    """So that a project whose keys nobody guards is noticed."""
    values = [
        value
        for key in keys.keys_with_conditions()
        for conditions in keys.conditions_of(key)
        for wanted in conditions.values()
        for value in (wanted if isinstance(wanted, tuple) else (wanted,))
        if isinstance(value, str)
    ]
    names = [name for name, kind in registry if kind.__module__.startswith("vod2.projects.")]
    assert names and set(names) <= set(values)
