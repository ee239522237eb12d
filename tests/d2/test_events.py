"""The event storage and what the writers make of it."""

import json
import logging

import pytest
import torch

from vod2.d2 import (
    CommonMetricPrinter,
    EventStorage,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
    log_every_n_seconds,
    log_first_n,
    setup_logger,
)


def test_there_is_no_storage_outside_a_context():
    with pytest.raises(AssertionError):
        get_event_storage()


def test_contexts_nest():
    with EventStorage() as outer:
        with EventStorage() as inner:
            assert get_event_storage() is inner
        assert get_event_storage() is outer


def test_scalars_are_kept_with_their_iteration():
    with EventStorage(start_iter=5) as storage:
        storage.put_scalar("a", 1)
        storage.step()
        storage.put_scalars(a=3, b=torch.tensor(2.0))
        assert storage.latest() == {"a": (3.0, 6), "b": (2.0, 6)}
        assert storage.history("a").values() == [(1.0, 5), (3.0, 6)]
        assert storage.iter == 6


def test_an_unknown_name_has_no_history():
    with pytest.raises(KeyError):
        EventStorage().history("a")


def test_only_hinted_scalars_are_smoothed_by_the_median_of_the_window():
    storage = EventStorage()
    for value in (9, 1, 2, 6):
        storage.put_scalar("noisy", value)
        storage.put_scalar("exact", value, smoothing_hint=False)
        storage.step()
    latest = storage.latest_with_smoothing_hint(window_size=3)
    assert latest == {"noisy": (2.0, 3), "exact": (6.0, 3)}


def test_json_lines_hold_each_value_once(tmp_path):
    writer = JSONWriter(str(tmp_path / "metrics.json"), window_size=2)
    with EventStorage() as storage:
        for value in (1.0, 3.0):
            storage.put_scalar("loss", value)
            storage.put_scalar("lr", value / 10, smoothing_hint=False)
            writer.write()
            storage.step()
        writer.write()  # nothing new
    writer.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.json").read_text().splitlines()]
    assert lines == [
        {"iteration": 0, "loss": 1.0, "lr": 0.1},
        {"iteration": 1, "loss": 2.0, "lr": 0.3},
    ]


def test_the_printed_line_has_eta_losses_times_and_rate():
    printer = CommonMetricPrinter(max_iter=110)
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    printer.logger.addHandler(handler)
    printer.logger.setLevel(logging.INFO)
    try:
        with EventStorage(start_iter=9) as storage:
            storage.put_scalars(time=2.0, data_time=0.5, loss_cls=0.25, total_loss=0.75)
            storage.put_scalar("lr", 0.01, smoothing_hint=False)
            printer.write()
            assert storage.latest()["eta_seconds"] == (200.0, 9)
    finally:
        printer.logger.removeHandler(handler)
    (line,) = messages
    for part in ("eta: 0:03:20", "iter: 9", "loss_cls: 0.25", "total_loss: 0.75", "time: 2.0", "lr: 0.01"):
        assert part in line


def test_tensorboard_takes_scalars_and_images_and_clears_the_images(tmp_path):
    pytest.importorskip("tensorboard")
    writer = TensorboardXWriter(str(tmp_path))
    with EventStorage() as storage:
        storage.put_scalar("loss", 1.0)
        storage.put_image("frame", torch.zeros(3, 4, 4))
        writer.write()
    writer.close()
    (file,) = tmp_path.iterdir()
    assert b"frame" in file.read_bytes()


def test_repeated_messages_are_logged_once(caplog):
    for i in range(3):
        log_first_n(logging.WARNING, f"place {i}")
        log_first_n(logging.WARNING, f"text {i % 2}", key="message")
        log_every_n_seconds(logging.WARNING, f"time {i}", n=1000)
    assert caplog.messages == ["place 0", "text 0", "time 0", "text 1"]
    assert {record.name for record in caplog.records} == {__name__}


def test_the_log_file_has_short_names_and_each_line_once(tmp_path, capsys):
    for _ in range(2):
        setup_logger(str(tmp_path), name="some_project", abbrev_name="sp")
    logger = logging.getLogger("some_project.part")
    logger.info("hello")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert len(lines) == 1 and "sp.part INFO: hello" in lines[0]
    assert capsys.readouterr().out.count("hello") == 1


def test_other_processes_log_to_their_own_file_only(tmp_path, capsys):
    setup_logger(str(tmp_path), distributed_rank=2, name="other_project").info("hello")
    assert [p.name for p in tmp_path.iterdir()] == ["log.txt.rank2"]
    assert capsys.readouterr().out == ""
