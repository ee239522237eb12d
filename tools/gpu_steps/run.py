"""The process of one step: `python -m gpu_steps.run MODULE SETTINGS`."""

import importlib
import sys

from gpu_steps.step import Settings, Step


def main() -> None:
    module, settings = sys.argv[1:]
    importlib.import_module(module).run(Step(Settings.read(settings)))


if __name__ == "__main__":
    main()
