"""The page of the configuration keys: what the code says, and nothing that it does not."""

import pytest

from helpers.models import ROOT
from vod2.d2 import CfgNode
from vod2.engine.config_docs import added_keys, comments_of, key_page
from vod2.engine.config_readers import find_readers, readings
from vod2.errors import UserError


def test_docs_config_md_is_the_page():
    command = "python tools/show_config.py --keys > docs/config.md"
    assert (ROOT / "docs" / "config.md").read_text() == key_page(), f"run {command}"


def test_every_key_that_is_added_has_one_row():
    rows = [line for line in key_page().splitlines() if line.startswith("| `")]
    keys = [line.split("`")[1] for line in rows]
    assert sorted(keys) == sorted(added_keys()) and len(keys) > 140
    assert all(line.count(" | ") == 3 for line in rows)


def add_commented(cfg: CfgNode) -> None:
    # Above a node
    node = cfg.MODEL.EXAMPLE = CfgNode()
    node.BEHIND = 1  # behind the key

    # Not of the next key

    # In two lines above, the first
    # and the second
    node.ABOVE = "x"
    cfg.MODEL.EXAMPLE.BOTH = 2  # and behind
    node.NOTHING = 3


def test_a_comment_belongs_to_the_key_whose_line_it_ends_or_precedes():
    texts = {key: comment.text for key, comment in comments_of(add_commented)}
    assert texts == {
        "MODEL.EXAMPLE": "Above a node",
        "MODEL.EXAMPLE.BEHIND": "behind the key",
        "MODEL.EXAMPLE.ABOVE": "In two lines above, the first and the second",
        "MODEL.EXAMPLE.BOTH": "and behind",
        "MODEL.EXAMPLE.NOTHING": "",
    }


def add_without_meaning(cfg: CfgNode) -> None:
    cfg.SOLVER.ACCUMULATE = 1


def test_a_key_without_a_comment_is_refused_with_its_place():
    line = add_without_meaning.__code__.co_firstlineno + 1
    with pytest.raises(UserError, match=rf"SOLVER.ACCUMULATE has no meaning.* in .*test_config_docs.py:{line}$"):
        key_page([add_without_meaning])


def add_without_reader(cfg: CfgNode) -> None:
    cfg.SOLVER.ACCUMULATION = 1  # a key that the optimizer reads under another name


def test_a_key_that_nobody_reads_is_refused():
    with pytest.raises(UserError, match=r"SOLVER.ACCUMULATION \(.*test_config_docs.py:\d+\) is read by nothing"):
        key_page([add_without_reader])


@pytest.mark.parametrize(
    "body, read",
    [
        ("return cfg.MODEL.A.B", {"MODEL.A.B"}),
        ("return self.cfg.MODEL.A.B", {"MODEL.A.B"}),
        ("node = cfg.MODEL.A\n    return node.B + node['C']", {"MODEL.A", "MODEL.A.B", "MODEL.A.C"}),
        ("node, b = cfg.MODEL.A, cfg.MODEL.B\n    return node.C", {"MODEL.A", "MODEL.B", "MODEL.A.C"}),
        ("node = cfg.MODEL.A\n    return [lambda x: node.B for _ in x]", {"MODEL.A", "MODEL.A.B"}),
        ("node = cfg.MODEL.A\n    node = other()\n    return node.B", {"MODEL.A"}),
        ("cfg.MODEL.A.B = 1", set()),
        ("return x.MODEL.A.B", set()),
    ],
)
def test_reading_is_evaluating_an_attribute_of_the_configuration(body, read):
    assert {key for key, _ in readings(f"def build(cfg, self, x):\n    {body}")} == read


def test_names_for_nodes_end_with_their_function():
    source = (
        "class A:\n    def f(self, cfg):\n        node = cfg.MODEL.A\n    def g(self, node):\n        return node.B"
    )
    assert list(readings(source)) == [("MODEL.A", "A")]


def test_readers_are_classes_functions_and_components_that_declare_the_key():
    readers = find_readers(["MODEL.RDN.NUM_BASIC", "VIDEO.TRAIN_SCHEDULE.RADIUS", "VIDEO.TEST_SCHEDULE.NAME", "NO.KEY"])
    assert readers["MODEL.RDN.NUM_BASIC"] == ["RDNAggregator"]
    assert readers["VIDEO.TRAIN_SCHEDULE.RADIUS"] == ["LocalMemoryGlobal", "RandomNear"]
    assert "build_support_schedule" in readers["VIDEO.TEST_SCHEDULE.NAME"]
    assert readers["NO.KEY"] == []
