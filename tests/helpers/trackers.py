"""Small stand-ins for the packages wandb and mlflow: what the writers call of them, and what they were told."""

from types import ModuleType, SimpleNamespace


class Broken(Exception):
    """The network has gone."""


class FakeWandb(ModuleType):
    """`runs` by id: parameters, logged dicts, exit codes. `fails` names the calls that raise."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__file__ = "wandb/__init__.py"
        self.runs: dict[str, SimpleNamespace] = {}
        self.inits: list[dict] = []
        self.fails: set[str] = set()

    def init(self, **arguments) -> SimpleNamespace:
        self.check("init")
        self.inits.append(arguments)
        run = self.runs.setdefault(arguments["id"], SimpleNamespace(parameters={}, logged=[], metrics={}, ends=[]))

        def update(values, allow_val_change=False):
            changed = [key for key, value in values.items() if run.parameters.get(key, value) != value]
            assert allow_val_change or not changed
            run.parameters.update(values)

        def log(values):
            self.check("log")
            run.logged.append(values)

        def finish(exit_code):
            self.check("finish")
            run.ends.append(exit_code)

        def define_metric(name, step_metric=None):
            run.metrics[name] = step_metric

        config = SimpleNamespace(update=update)
        return SimpleNamespace(config=config, log=log, finish=finish, define_metric=define_metric)

    def check(self, call: str) -> None:
        if call in self.fails:
            raise Broken("no route to host")

    def scalars(self) -> list[tuple[str, str, int]]:
        """(run, name, iteration) of everything that was logged."""
        return [
            (run, name, values["iteration"])
            for run, content in self.runs.items()
            for values in content.logged
            for name in values
            if name != "iteration"
        ]

    def parameters(self) -> dict[str, str]:
        (run,) = self.runs.values()
        return run.parameters

    def ends(self) -> list[bool]:
        """Whether each session of the only run was said to be complete."""
        (run,) = self.runs.values()
        return [code == 0 for code in run.ends]


class FakeMlflow(ModuleType):
    """As `FakeWandb`; it refuses what MLflow refuses: other names, long values, changed parameters, large batches."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.__file__ = "mlflow/__init__.py"
        self.entities = SimpleNamespace(
            Param=lambda key, value: (key, value),
            RunTag=lambda key, value: (key, value),
            Metric=lambda key, value, timestamp, step: (key, value, timestamp, step),
        )
        self.runs: dict[str, SimpleNamespace] = {}
        self.fails: set[str] = set()

    def set_experiment(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(experiment_id=name)

    def MlflowClient(self) -> "FakeMlflow":
        self.check("init")
        return self

    def create_run(self, experiment: str, run_name: str) -> SimpleNamespace:
        name = f"run{len(self.runs)}"
        content = SimpleNamespace(params={}, tags={}, metrics=[])
        self.runs[name] = SimpleNamespace(experiment=experiment, name=run_name, data=content, states=["RUNNING"])
        return SimpleNamespace(info=SimpleNamespace(run_id=name))

    def update_run(self, run: str, status: str) -> None:
        self.runs[run].states.append(status)

    def get_run(self, run: str) -> SimpleNamespace:
        return self.runs[run]

    def log_batch(self, run: str, metrics=(), params=(), tags=()) -> None:
        if metrics:
            self.check("log")
        assert 0 < len([*metrics, *params, *tags]) <= 100
        content = self.runs[run].data
        for key, value in params:
            assert len(value) <= 500 and content.params.get(key, value) == value
            content.params[key] = value
        content.tags.update(tags)
        for name, *_ in metrics:
            assert not set(name) & set(",()%") and "//" not in name, name
        content.metrics.extend(metrics)

    def set_terminated(self, run: str, status: str) -> None:
        self.check("finish")
        self.runs[run].states.append(status)

    check = FakeWandb.check

    def scalars(self) -> list[tuple[str, str, int]]:
        return [
            (run, name, step)
            for run, content in self.runs.items()
            for name, _, timestamp, step in content.data.metrics
            if timestamp > 1e12  # milliseconds
        ]

    def parameters(self) -> dict[str, str]:
        (run,) = self.runs.values()
        return run.data.params

    def ends(self) -> list[bool]:
        (run,) = self.runs.values()
        return [state == "FINISHED" for state in run.states if state != "RUNNING"]
