"""The steps of tools/gpu_report.py, each of which runs in a process of its own.

`plan`, `process` and `report` are the driver's and need the standard library alone: on a bare machine the project's
packages are installed by the driver itself. The other modules are steps: each has a function `run(step: Step)`.
"""
