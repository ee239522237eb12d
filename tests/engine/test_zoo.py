"""Models by name: which weights are fetched, what is checked, and what is said where they are not there."""

import hashlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from helpers.conversion import CONFIG, SMALL, public_state, small_state
from vod2 import VideoPredictor, model_zoo
from vod2.checkpoint import SOURCES
from vod2.checkpoint.sources import published as published_models
from vod2.commands.zoo import main
from vod2.engine import zoo
from vod2.errors import UserError
from vod2.package_files import config_names

PAGE = "https://example.org/page"


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A small model, whose file "the network" has, and a cache of its own; calls of the download are counted."""
    # A configuration nests its keys.
    tree: dict = {"_BASE_": CONFIG}
    for key, value in zip(SMALL[::2], SMALL[1::2], strict=True):
        node = tree
        *path, last = key.split(".")
        for part in path:
            node = node.setdefault(part, {})
        node[last] = yaml.safe_load(value)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(tree))
    torch.save({"model": public_state()}, tmp_path / "remote.pth")
    model = published_models.PublishedModel(
        name=str(tmp_path / "small"),
        alias="small_mega",
        source="mega",
        url="https://example.org/remote.pth",
        page=PAGE,
        ap50=12.5,
        license="none",
    )
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(zoo, "PUBLISHED", (model,))
    calls = []

    def download(url, folder, filename):
        calls.append(url)
        shutil.copy(tmp_path / "remote.pth", Path(folder, filename))

    monkeypatch.setattr(zoo, "download", download)
    return SimpleNamespace(model=model, calls=calls, remote=tmp_path / "remote.pth")


def test_weights_are_downloaded_and_converted_once(published):
    path = zoo.published_weights("small_mega")
    assert zoo.published_weights("small_mega") == path and len(published.calls) == 1
    loaded = model_zoo.get("small_mega").state_dict()
    for name, value in small_state().items():
        # The public code numbers the anchors in another order.
        if name in loaded and value.is_floating_point() and "rpn_head" not in name:
            assert torch.allclose(loaded[name], value, atol=1e-6), name
    # The download is no longer needed.
    Path(path).with_name("small_mega.pth").unlink()
    assert zoo.published_weights("small_mega") == path and len(published.calls) == 1


def test_a_predictor_takes_the_name(published):
    predictor = VideoPredictor("small_mega")
    assert not any(parameter.isnan().any() for parameter in predictor.model.parameters())
    assert len(published.calls) == 1


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ""])
def test_a_file_is_a_file_whatever_its_suffix(published, tmp_path, monkeypatch, suffix):
    (tmp_path / "small.yaml").rename(tmp_path / f"mine{suffix}")
    monkeypatch.chdir(tmp_path)
    VideoPredictor(f"mine{suffix}", weights="")
    with pytest.raises(UserError, match="other.yml' does not exist"):
        VideoPredictor("other.yml", weights="")
    assert published.calls == []


def test_weights_of_the_callers_own_are_not_fetched(published):
    VideoPredictor("small_mega", weights="")
    assert published.calls == []


def test_another_file_than_that_of_the_first_download_is_refused(published):
    path = Path(zoo.published_weights("small_mega"))
    path.unlink()
    path.with_name("small_mega.pth").write_bytes(b"\x80something else")
    with pytest.raises(UserError, match="the first download had .*remove it to download it again"):
        zoo.published_weights("small_mega")


def test_a_wrong_first_file_is_not_what_the_next_is_compared_to(published):
    right = published.remote.read_bytes()
    published.remote.write_bytes(b'{"error": "quota"}')
    with pytest.raises(UserError, match=r"small_mega.pth is not the file of .*remove it to download it again"):
        zoo.published_weights("small_mega")
    published.remote.write_bytes(right)
    (zoo.cache_folder() / "small_mega.pth").unlink()
    assert Path(zoo.published_weights("small_mega")).is_file()


def test_the_publishers_sha256_is_checked(published, monkeypatch):
    monkeypatch.setattr(zoo, "PUBLISHED", (published.model._replace(sha256="0badf00d"),))
    with pytest.raises(UserError, match="the publisher states 0badf00d"):
        zoo.published_weights("small_mega")
    right = hashlib.sha256(published.remote.read_bytes()).hexdigest()[:8]
    monkeypatch.setattr(zoo, "PUBLISHED", (published.model._replace(sha256=right),))
    assert Path(zoo.published_weights("small_mega")).is_file()


def test_converted_weights_of_another_file_are_made_again(published, monkeypatch):
    path = Path(zoo.published_weights("small_mega"))
    path.write_bytes(path.read_bytes()[:1000])  # cut off
    assert Path(zoo.published_weights("small_mega")).stat().st_size > 1000
    assert len(published.calls) == 1, "the download was still there"


def test_without_network_a_sentence_says_which_file_to_put_where(published, monkeypatch):
    def fails(url, folder, filename):
        raise OSError("Name or service not known")

    monkeypatch.setattr(zoo, "download", fails)
    with pytest.raises(UserError, match=rf"Name or service not known.*from {PAGE} and put it at .*small_mega\.pth"):
        zoo.published_weights("small_mega")
    # What the sentence says works.
    shutil.copy(published.remote, zoo.cache_folder() / "small_mega.pth")
    assert Path(zoo.published_weights("small_mega")).is_file()


def test_a_page_in_the_place_of_the_file_is_told_and_not_kept(published):
    published.remote.write_text("<!DOCTYPE html><html>too many users</html>")
    with pytest.raises(UserError, match="returned a web page instead of the file"):
        zoo.published_weights("small_mega")
    assert not (zoo.cache_folder() / "small_mega.pth").exists()


def test_every_published_model_has_a_configuration_and_a_converter():
    names = config_names()
    for model in model_zoo.PUBLISHED:
        assert model.config in names and model.source in SOURCES
        assert model.url.startswith("https://") and model.page.startswith("https://") and 50 < model.ap50 < 90
    aliases = [name for model in model_zoo.PUBLISHED for name in (model.name, model.alias)]
    assert len(set(aliases)) == len(aliases)
    of_configs = {f"published/{Path(name).stem}" for name in names if name.startswith("published/")}
    assert {model.name for model in model_zoo.PUBLISHED} == of_configs


def test_a_configuration_has_its_names():
    assert model_zoo.get_config_file("RDN_R101").endswith("configs/RDN_R101.yaml")
    assert model_zoo.get_config_file("RDN_R101_mega").endswith("configs/published/RDN_R101.yaml")
    assert model_zoo.get_config("configs/quick/RDN.yaml").OUTPUT_DIR == "output/quick/RDN"
    assert model_zoo.get_checkpoint_url("SELSA_R101_mmtracking").endswith("-aa961bcc.pth")


def test_a_model_of_the_quick_set_is_built_without_weights():
    model = model_zoo.get("quick/RDN", trained=False, device="cpu")
    assert not model.training and next(model.parameters()).device.type == "cpu"


UNKNOWN = {
    "RDN_R101": "nobody has published weights for the configuration 'RDN_R101': published/RDN_R101 is that model",
    "quick/RDN": "nobody has published weights for the configuration 'quick/RDN': give the weights of a training",
    "published/RDN_R102": "there is no model 'published/RDN_R102': did you mean 'published/RDN_R101'",
    "nothing like it": "there is no model 'nothing like it'",
}


@pytest.mark.parametrize(("name", "message"), UNKNOWN.items())
def test_a_name_without_weights_is_told_what_there_is(name, message):
    for ask in (zoo.published_weights, model_zoo.get_checkpoint_url, main):
        with pytest.raises(UserError, match=message):
            ask([name] if ask is main else name)


def test_a_configuration_that_does_not_exist_is_named():
    with pytest.raises(UserError, match=r"quick/RND.*quick/RDN"):
        model_zoo.get_config("quick/RND")
    with pytest.raises(UserError, match=r"quick/RND.*quick/RDN"):
        VideoPredictor("quick/RND")


def test_the_list_has_every_model_and_what_is_here(published, capsys):
    main([])
    told = capsys.readouterr().out
    assert all(model.name in told for model in model_zoo.PUBLISHED) and "yes" not in told


def test_a_name_on_the_command_line_fetches_it_and_says_how_to_run_it(published, capsys):
    main(["small_mega"])
    path = zoo.published_weights("small_mega")
    told = capsys.readouterr().out
    assert f"small: {path}" in told and f"MODEL.WEIGHTS {path}" in told
