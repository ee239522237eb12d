"""`vod2 report`: one page of evaluations; and `vod2 show` of their results."""

import json
import re

import cv2
import numpy as np
import pytest

from helpers.evaluations import evaluate, make_videos
from vod2.commands import report, show
from vod2.d2 import DatasetCatalog
from vod2.errors import UserError


@pytest.fixture(scope="module")
def trainings(tmp_path_factory):
    """A weak and a strong detector of the same videos, with the losses of a training."""
    root = tmp_path_factory.mktemp("trainings")
    for name, seed, quality in (("weak", 1, 0.2), ("strong", 3, 0.95)):
        folder = root / name / "inference" / "videos"
        metrics = evaluate(make_videos(seed, 12, quality=quality), folder)
        (folder / "results.json").write_text(json.dumps({"context": "own", "vid": metrics}))
        lines = [{"iteration": step, "total_loss": 2 / (step + 1)} for step in range(0, 100, 20)]
        text = "".join(json.dumps(line) + "\n" for line in [*lines, {"iteration": 99, "vid/AP50": 1.0}])
        (root / name / "metrics.json").write_text(text + '{"iteration": 1')  # cut by a kill
    return root


def test_a_page_of_two_runs_has_their_metrics_and_differences(trainings, tmp_path, monkeypatch):
    page = tmp_path / "out" / "report.html"
    report.main([str(trainings / "weak"), f"RDN={trainings / 'strong'}", "--output", str(page), "--title", "A <b>"])
    text = page.read_text()
    values = [json.loads((trainings / name / "inference/videos/results.json").read_text())["vid"]["AP50"]
              for name in ("weak", "strong")]  # fmt: skip
    assert f"<tr><td>AP50</td><td>{values[0]:.1f}</td><td>{values[1]:.1f}</td></tr>" in text
    assert re.search(r"<td>RDN: AP50</td><td>\+[0-9.]+</td><td>\+[0-9.]+ to \+[0-9.]+</td><td>better</td>", text)
    assert "<h1>A &lt;b&gt;</h1>" in text and "Against weak" in text and "Training" in text
    assert text.count("data:image/svg") == 3
    assert "is not registered here, so its images are not shown" in text
    assert "RDN: what is taken for what" in text and "<th>missed</th>" in text and "<td>no object</td>" in text
    assert "<th>dAP50 deteriorated</th>" in text


def test_frames_are_shown_where_the_dataset_is_registered(trainings, tmp_path, monkeypatch):
    run = report.read_evaluated(trainings / "weak").run
    images, records = tmp_path / "images", []
    images.mkdir()
    for number, image_id in enumerate(run.data.image_ids):
        file = images / f"{number}.png"
        cv2.imwrite(str(file), np.full((400, 400, 3), 90, np.uint8))
        records.append({"image_id": image_id, "file_name": str(file), "height": 400, "width": 400})
    DatasetCatalog.register("report_videos", lambda: records)
    page = tmp_path / "report.html"
    words = [str(trainings / "weak"), "--dataset", "report_videos", "--output", str(page)]
    report.main(words)
    text = page.read_text()
    assert text.count("data:image/jpeg") == 12, "six of the worst, six others"
    assert "Against" not in text


def test_losses_are_read_without_lines_that_are_none(trainings):
    losses = report.read_losses(trainings / "weak")
    assert losses[:, 0].tolist() == [0, 20, 40, 60, 80] and losses[1, 1] == pytest.approx(2 / 21)
    assert report.read_losses(trainings).shape == (0, 2)


def test_mistakes_of_the_page_are_told(trainings, tmp_path):
    with pytest.raises(UserError, match=r"expected a name that ends in .html"):
        report.main([str(trainings / "weak"), "--output", "report.pdf"])
    with pytest.raises(UserError, match="two runs are called 'weak'"):
        report.main([str(trainings / "weak")] * 2)
    broken = tmp_path / "broken" / "inference" / "videos"
    broken.mkdir(parents=True)
    for file in (trainings / "weak/inference/videos").iterdir():
        if file.is_file():
            (broken / file.name).write_bytes(file.read_bytes())
    (broken / "results.json").write_text("{}")
    with pytest.raises(UserError, match="results.json holds nothing, expected the metrics vid"):
        report.main([str(tmp_path / "broken")])


def test_show_prints_the_tables_of_an_evaluation(trainings, capsys):
    for path in ("weak", "weak/inference/videos", "weak/inference/videos/results.json"):
        show.main([str(trainings / path)])
        told = capsys.readouterr().out
        assert "lost to" in told and re.search(r"^all +[0-9.]+", told, re.MULTILINE), path


def test_show_prints_metrics_alone_where_there_are_no_detections(trainings, tmp_path, capsys):
    (tmp_path / "results.json").write_text(json.dumps({"vid": {"AP50": 51.25}}))
    show.main([str(tmp_path / "results.json")])
    assert re.search(r"AP50 +51.25", capsys.readouterr().out)
    (tmp_path / "results.json").write_text('{"uavdt": {}}')
    with pytest.raises(UserError, match="holds uavdt, expected the metrics vid: the dataset needs evaluator_type"):
        show.main([str(tmp_path)])
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(UserError, match="holds no metrics of an evaluation"):
        show.main([str(tmp_path)])
