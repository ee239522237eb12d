"""Actors of Ray, with a Ray whose actors live in this process."""

import sys
import types

import pytest

from helpers.archives import FakeRunner
from vod2.archive import RayWorkers
from vod2.archive.tasks import Done, Failed, VideoTask
from vod2.errors import UserError


class ActorDied(Exception):
    """In the place of Ray's own."""


class FakeRay(types.ModuleType):
    """What RayWorkers asks of Ray; a call is done when it is made, and its reference holds what came of it."""

    def __init__(self, deadly: tuple[str, ...] = (), stillborn: int = 0, **resources: float) -> None:
        super().__init__("ray")
        self._resources, self._deadly, self._stillborn = resources, deadly, stillborn
        self.exceptions = types.SimpleNamespace(RayActorError=ActorDied, RayError=ActorDied)
        self.options, self.devices, self.is_open = [], [], False

    def init(self, ignore_reinit_error):
        self.is_open = True

    def shutdown(self):
        self.is_open = False

    def cluster_resources(self):
        return self._resources

    def wait(self, calls, num_returns, timeout):
        return calls[:num_returns], calls[num_returns:]

    def get(self, call):
        if isinstance(call.result, Exception):
            raise call.result
        return call.result

    def remote(self, **options):
        self.options.append(options)

        def decorate(kind):
            def make(make_runner, device):
                self.devices.append(device)
                actor = kind(make_runner, device)
                return types.SimpleNamespace(
                    prepare=types.SimpleNamespace(remote=lambda: self._prepare(actor)),
                    run=types.SimpleNamespace(remote=lambda task: self._run(actor, task)),
                )

            return types.SimpleNamespace(remote=make)

        return decorate

    def _prepare(self, actor):
        self._stillborn -= 1
        return _Call(ActorDied("no memory") if self._stillborn >= 0 else actor.prepare())

    def _run(self, actor, task):
        return _Call(ActorDied("the actor died\nat length") if task.video in self._deadly else actor.run(task))


class _Call:
    def __init__(self, result):
        self.result = result


@pytest.fixture
def use(monkeypatch):
    def put(ray):
        monkeypatch.setitem(sys.modules, "ray", ray)
        return ray

    return put


def do(workers, names):
    replies = {}
    waiting = list(names)
    while len(replies) < len(names):
        while waiting and workers.free:
            workers.submit(VideoTask(waiting[0], f"/{waiting.pop(0)}.mp4"))
        replies |= {ended.task.video: ended.reply for ended in workers.wait(0.1)}
    return replies


def test_every_actor_has_one_gpu_and_ray_repeats_nothing(use):
    ray = use(FakeRay(GPU=3.0, CPU=8.0))
    workers = RayWorkers(FakeRunner, "cuda")
    assert workers.count == 3 and ray.devices == ["cuda:0"] * 3
    assert ray.options == [{"num_gpus": 1, "num_cpus": 0, "max_restarts": 0, "max_task_retries": 0}]
    replies = do(workers, "abcdefg")
    assert {type(reply) for reply in replies.values()} == {Done} and len(replies) == 7
    workers.close()
    assert not ray.is_open
    assert RayWorkers(FakeRunner, "cpu", 2).count == 2


def test_an_actor_that_dies_is_replaced_and_its_video_may_be_tried_again(use):
    ray = use(FakeRay(deadly=("b",), stillborn=1, CPU=2.0))
    replies = do(RayWorkers(FakeRunner, "cpu"), "abc")
    assert replies["b"] == Failed("its worker died (the actor died)")
    assert isinstance(replies["a"], Done) and isinstance(replies["c"], Done)
    assert len(ray.devices) == 4


def test_actors_that_cannot_begin_end_the_run(use):
    def refuse(device):
        raise UserError("weights 'w.pth' do not exist")

    use(FakeRay(CPU=1.0))
    with pytest.raises(UserError, match=r"weights 'w.pth' do not exist"):
        do(RayWorkers(refuse, "cpu"), "a")
    use(FakeRay(CPU=1.0, stillborn=9))
    with pytest.raises(UserError, match=r"3 workers have died while they loaded the model \(no memory\)"):
        do(RayWorkers(FakeRunner, "cpu"), "a")


def test_a_cluster_that_is_too_small_or_missing_is_named(use):
    use(FakeRay(CPU=2.0))
    with pytest.raises(UserError, match="--workers is 3, expected 1 to 2"):
        RayWorkers(FakeRunner, "cpu", 3)
    with pytest.raises(UserError, match="cluster of Ray has no GPU"):
        RayWorkers(FakeRunner, "cuda")
    use(None)
    with pytest.raises(UserError, match=r"pip install 'vod2\[ray\]'"):
        RayWorkers(FakeRunner, "cpu")
