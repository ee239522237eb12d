"""Suites as they are written, and what is said of mistakes in them."""

import re
from pathlib import Path

import pytest

from helpers.suites import QUICK, write_suite
from vod2.ablation import load_suite
from vod2.engine.rows import load_rows
from vod2.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
SUITES = ROOT / "configs" / "suites"
RDN = ROOT / "configs" / "ablations" / "rdn.yaml"
CSMN = RDN.parent / "csmn.yaml"
SINGLE = {"name": "single", "config": str(QUICK / "FasterRCNN.yaml")}
OTHER = SINGLE | {"name": "other"}


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_suites_of_the_project_load(path):
    suite = load_suite(path)
    assert suite.name == path.stem and suite.rows and suite.sizes


def test_the_suite_of_the_document_loads(tmp_path):
    (text,) = re.findall(r"```yaml\n(metrics:.*?)```", (ROOT / "docs" / "ablations.md").read_text(), re.DOTALL)
    (tmp_path / "quick").symlink_to(QUICK)
    (tmp_path / "suites").mkdir()
    (tmp_path / "suites" / "document.yaml").write_text(text)
    suite = load_suite(tmp_path / "suites" / "document.yaml")
    assert list(suite.rows) == ["FasterRCNN", "FasterRCNN_Longer", "RDN"] and suite.sizes["tiny"].frames == 640


def test_configurations_are_found_beside_the_suite(tmp_path):
    (tmp_path / "a.yaml").write_text("")
    suite = load_suite(write_suite(tmp_path, [{"name": "a", "config": "a.yaml"}]))
    assert suite.rows["a"].config == tmp_path / "a.yaml"


def test_a_row_is_compared_to_the_reference_or_to_its_base(tmp_path):
    rows = [SINGLE, SINGLE | {"name": "longer", "base": "single"}, SINGLE | {"name": "RDN", "base": "single"}]
    suite = load_suite(write_suite(tmp_path, rows))
    assert [suite.compared_to(name) for name in suite.rows] == [None, "single", "single"]
    suite = load_suite(write_suite(tmp_path, rows, reference="longer"))
    assert [suite.compared_to(name) for name in suite.rows] == ["longer", None, "longer"]


def test_a_row_of_a_papers_table_is_a_configuration(tmp_path):
    rows = [SINGLE, {"name": "Nb1", "config": f"{RDN}:Nb1"}, {"name": "T3", "config": f"{RDN}:T3", "base": "single"}]
    suite = load_suite(write_suite(tmp_path, rows))
    assert suite.rows["Nb1"].config == Path(f"{RDN}:Nb1")
    assert suite.rows["T3"].config.name == "rdn.yaml:T3"


def test_a_row_that_stands_for_one_of_a_paper_takes_its_overrides_and_its_gain(tmp_path):
    mst = RDN.parent / "mst.yaml"
    entry = {"config": str(QUICK / "MST.yaml"), "base": "single", "paper_row": f"{mst}:b", "paper_baseline": f"{mst}:d"}
    rows = [SINGLE, entry | {"name": "b", "overrides": {"MODEL.ALIGNER.NAME": "DAlign", "SEED": 3}}]
    row = load_suite(write_suite(tmp_path, rows)).rows["b"]
    # Row (b) is (d) without alignment, (d) is MST without its proposal level; what the suite says comes last.
    assert row.overrides == {
        "MODEL.VIDEO.PROPOSAL_AGGREGATOR.NAME": "",
        "MODEL.ALIGNER.NAME": "DAlign",
        "SEED": 3,
    }
    assert (row.paper_row, row.paper_gain) == ("mst:b", -0.5)  # 78.0 and 78.5
    rows = [SINGLE, {key: value for key, value in entry.items() if key != "paper_baseline"} | {"name": "b"}]
    assert load_suite(write_suite(tmp_path, rows)).rows["b"].paper_gain is None


def test_a_suite_that_extends_another_has_its_sizes_and_may_name_its_rows(tmp_path):
    path = SUITES / "vod_synth.yaml"
    rows = ["FasterRCNN", "RDN", {"name": "T3", "config": f"{RDN}:T3", "weights_of": "RDN", "compared_to": "RDN"}]
    whole = load_suite(path)
    suite = load_suite(write_suite(tmp_path, rows, extends=str(path), reference="RDN"))
    assert suite.sizes == whole.sizes and suite.metrics == whole.metrics and suite.reference == "RDN"
    assert dict(suite.rows["T3"].overrides) == {}
    assert suite.rows["RDN"] == whole.rows["RDN"] and list(suite.rows) == ["FasterRCNN", "RDN", "T3"]
    assert [suite.compared_to(name) for name in suite.rows] == ["RDN", None, "RDN"]
    content = {"extends": str(path), "reference": "FasterRCNN"}
    own = load_suite(write_suite(tmp_path, ["FasterRCNN"], sizes={"small": {}}, **content))
    assert list(own.sizes) == ["small"] and own.sizes["small"].iterations is None
    with pytest.raises(UserError, match="row FasterRCNN: iterations of size 'small': expected one"):
        load_suite(write_suite(tmp_path, ["FasterRCNN"], sizes={"one": {}}, **content))


def test_every_row_of_the_papers_suite_says_what_it_is_compared_to_and_what_its_paper_has():
    """As many rows of a paper as it has in the suite `decisive`, three each; the gains are those of the tables."""
    suite = load_suite(SUITES / "decisive.yaml")
    papers = [row.paper_row.split(":")[0] for row in suite.rows.values() if row.paper_row]
    assert {paper: papers.count(paper) for paper in papers} == {
        "rdn": 3,
        "selsa": 1,
        "csmn": 2,
        "hvrnet": 3,
        "lsts": 3,
        "mst": 3,
    }
    gains = {name: row.paper_gain for name, row in suite.rows.items() if row.paper_gain is not None}
    assert gains["RDN"] == 0.9 and gains["HVRNet"] == 2.6 and gains["LSTS_a"] == -0.6 and gains["MST"] == 0.5
    everything = load_suite(SUITES / "papers.yaml")
    singles = {"rdn:FasterRCNN", "hvrnet:FasterRCNN", "lsts:single", "mst:a"}
    for each in (suite, everything):
        for name, row in each.rows.items():
            if row.paper_row is None:
                continue
            if row.paper_gain is None:
                assert row.compared_to and row.paper_row.startswith(("csmn", "selsa")), name
            elif row.compared_to == "FasterRCNN_Longer":
                assert row.paper_baseline in singles, name
            else:
                # Two rows of a table may be one configuration, under two names but with one number.
                numbers = {mAP_of(row.paper_baseline), mAP_of(each.rows[row.compared_to].paper_row)}
                assert len(numbers) == 1, name


def mAP_of(name: str) -> float:
    """Of a row as `config_name` calls it."""
    paper, row = name.split(":")
    return load_rows(RDN.parent / f"{paper}.yaml").rows[row].paper["mAP"]


@pytest.mark.parametrize(
    "rows, content, message",
    [
        ([{"name": "a", "config": f"{RDN}:T99"}], {}, "row a: .*rdn.yaml has no row 'T99': expected one of"),
        ([{"name": "a", "config": str(RDN)}], {}, "row a: .*rdn.yaml holds rows: name one"),
        ([{"name": "a", "config": f"{RDN}:T3"}], {}, "rdn:T3 is RDN_R101 with other settings in inference: .* a base"),
        ([SINGLE | {"contxts": []}], {}, r"row 1: unknown key 'contxts': expected some of base, compared_to, config"),
        ([{"name": "a"}], {}, "row 1: it has no config"),
        ([SINGLE | {"config": "nowhere.yaml"}], {}, "row single: configuration 'nowhere.yaml' does not exist"),
        ([SINGLE | {"name": "../a"}], {}, "row ../a: its name is that of a folder"),
        ([SINGLE, SINGLE], {}, "row single: there are two rows"),
        ([SINGLE | {"base": "later"}], {}, "base 'later' is no row above it: expected one of none"),
        ([SINGLE | {"contexts": ["own", "alien"]}], {}, "context 'alien': expected some of own, none, foreign"),
        ([SINGLE | {"contexts": "own"}], {}, "contexts: got 'own', expected a list"),
        ([SINGLE | {"iterations": 0}], {}, "iterations: got 0, expected a whole number of at least 1"),
        ([SINGLE | {"iterations": {"huge": 5}}], {}, "iterations of size 'huge': expected"),
        ([SINGLE | {"iterations": {"tiny": 1.5}}], {}, "iterations of tiny: got 1.5"),
        ([SINGLE | {"overrides": ["A", 1]}], {}, "overrides are .*, expected a mapping"),
        ([SINGLE | {"seconds_per_iteration": -1}], {}, "seconds_per_iteration is -1, expected a number above 0"),
        ([SINGLE | {"weights_of": "later"}], {}, "weights_of 'later' is no row above it: expected one of none"),
        ([SINGLE | {"compared_to": "later"}], {}, "compared_to 'later' is no row above it"),
        (
            [SINGLE, OTHER | {"weights_of": "single", "base": "single"}],
            {},
            "is not trained .weights_of single., but has b",
        ),
        ([SINGLE, OTHER | {"weights_of": "single", "iterations": 5}], {}, "but has iterations: leave one of them out"),
        (
            [SINGLE, OTHER | {"weights_of": "single"}, OTHER | {"name": "third", "weights_of": "other"}],
            {},
            "row third: weights_of other, which has those of single: name that row",
        ),
        ([SINGLE | {"paper_row": f"{RDN}:T99"}], {}, "row single: paper_row: .*rdn.yaml has no row 'T99'"),
        ([SINGLE | {"paper_row": str(RDN)}], {}, "paper_row: got .*rdn.yaml', expected FILE:ROW"),
        ([SINGLE | {"paper_baseline": f"{RDN}:T3"}], {}, "a paper_baseline, but no paper_row"),
        (
            [SINGLE | {"paper_row": f"{RDN}:T3", "paper_baseline": f"{RDN.parent / 'csmn.yaml'}:R101"}],
            {},
            "paper_baseline is of csmn.yaml, paper_row of rdn.yaml: name one paper",
        ),
        (
            [SINGLE | {"paper_row": f"{CSMN}:patches4", "paper_baseline": f"{CSMN}:R101"}],
            {},
            "csmn:patches4 has no mAP: leave paper_baseline out",
        ),
        (["RDN"], {}, "row 1: got 'RDN', expected a mapping"),
        (["RND"], {"extends": str(SUITES / "vod_synth.yaml")}, "row 1: got 'RND', expected .* one of FasterRCNN, "),
        (["RDN"], {"extends": str(SUITES / "vod_synth.yaml")}, "row RDN: base 'FasterRCNN' is no row above it"),
        (["FasterRCNN"] * 2, {"extends": str(SUITES / "vod_synth.yaml")}, "two rows of the name FasterRCNN"),
        ([SINGLE], {"extends": "mine.yaml"}, "extends: mine.yaml leads back to itself"),
        ([SINGLE], {"extends": "nowhere.yaml"}, "extends: there is no nowhere.yaml beside the suite"),
        ([], {}, r"rows is \[\], expected a list of rows"),
        ([SINGLE], {"sizes": []}, r"sizes is \[\], expected a mapping"),
        ([SINGLE], {"sizes": {"tiny": {"train": "one"}}}, "size tiny: train: got 'one', expected a list of names"),
        ([SINGLE], {"sizes": {"tiny": {"frames": "many"}}}, "size tiny: frames: got 'many'"),
        ([SINGLE], {"metrics": ["AP50"]}, "metrics: got 'AP50', expected task/metric"),
        ([SINGLE], {"reference": "RDN"}, "reference: there is no row 'RDN': expected one of single"),
        ([SINGLE], {"name": "other"}, "the file: unknown key 'name'"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_place(tmp_path, rows, content, message):
    path = write_suite(tmp_path, rows, **content)
    with pytest.raises(UserError, match=message) as error:
        load_suite(path)
    assert str(error.value).startswith(str(path))


def test_a_file_that_is_not_there_or_no_yaml_is_named(tmp_path):
    with pytest.raises(UserError, match="none.yaml.*cannot be read"):
        load_suite(tmp_path / "none.yaml")
    (tmp_path / "broken.yaml").write_text("rows: [")
    with pytest.raises(UserError, match="broken.yaml"):
        load_suite(tmp_path / "broken.yaml")
    (tmp_path / "empty.yaml").write_text("")
    with pytest.raises(UserError, match="empty.yaml: the file: got None, expected a mapping"):
        load_suite(tmp_path / "empty.yaml")
