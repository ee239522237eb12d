"""What parsers say of a file that is wrong, and how they read the good part of it."""

import pickle

import pytest
from torch._utils import ExceptionWrapper

from vod2.data.datasets.common import fields_of, lines_of
from vod2.data.datasets.faults import Fault, Place, number, refuse, whole
from vod2.errors import UserError

PLACE = Place("gt.txt", 5)


def test_the_message_says_place_value_expectation_and_remedy():
    fault = Fault.at(Place("a.json", entry="images[3]"), "width is 'x'", "a number", remedy="fix it")
    assert str(fault) == "a.json: images[3]: width is 'x', expected a number: fix it"
    assert (fault.kind, fault.frame) == ("broken_annotation", None)


def test_a_dataset_stops_at_a_fault_with_an_error_for_the_user():
    with pytest.raises(UserError, match="gt.txt, line 5: it is 3, expected 4: fix the file"):
        refuse(Fault.at(PLACE, "it is 3", "4"))


def test_a_fault_in_a_worker_process_arrives_with_its_message():
    try:
        raise Fault.at(PLACE, "it is 3", "4", "bad_line")
    except Fault as fault:
        wrapped, copy = ExceptionWrapper(where="in a worker"), pickle.loads(pickle.dumps(fault))
    with pytest.raises(Fault, match="gt.txt, line 5: it is 3, expected 4"):
        wrapped.reraise()
    assert (copy.place, copy.kind, str(copy)) == (
        PLACE,
        "bad_line",
        "gt.txt, line 5: it is 3, expected 4: fix the file",
    )


@pytest.mark.parametrize("value", ["x", "", None, True, float("nan"), "inf", 10**400, [1]])
def test_what_is_no_finite_number_is_a_fault(value):
    with pytest.raises(Fault, match="gt.txt, line 5: left is .*, expected a number") as found:
        number(value, PLACE, "left", "bad_line")
    assert (found.value.kind, found.value.place) == ("bad_line", PLACE)


def test_numbers_may_be_texts_and_whole_ones_may_have_a_point():
    assert (number("1.5", PLACE, "left"), whole("7.0", PLACE, "id"), whole(-2, PLACE, "id")) == (1.5, 7, -2)


@pytest.mark.parametrize(("value", "bounds"), [(1.5, {}), (0, {"least": 1}), (9, {"least": 1, "most": 8}), (2**60, {})])
def test_what_is_no_whole_number_in_its_bounds_is_a_fault(value, bounds):
    with pytest.raises(Fault, match="id is .*, expected a whole number"):
        whole(value, PLACE, "id", **bounds)


def test_lines_come_cut_into_fields_with_their_place_and_the_others_are_faults(tmp_path):
    path, faults = tmp_path / "table.txt", []
    path.write_bytes(b"\xef\xbb\xbf1,2\n\n3\n\xff,4\r\n")
    rows = list(fields_of(path, "the table", "a,b", {2}, faults.append, ","))
    assert rows == [(Place(path, 1), ["1", "2"]), (Place(path, 4), ["\ufffd", "4"])]
    assert [(f.kind, f.place.line, f.value, f.expected) for f in faults] == [("bad_line", 3, "'3'", "a,b")]


@pytest.mark.parametrize(("name", "kind"), [("nowhere.txt", "missing_annotation"), (".", "broken_annotation")])
def test_a_file_that_cannot_be_read_is_a_fault_and_has_no_lines(tmp_path, name, kind):
    faults = []
    assert lines_of(tmp_path / name, "the table", faults.append) == []
    assert [fault.kind for fault in faults] == [kind] and "the table cannot be read (" in str(faults[0])
