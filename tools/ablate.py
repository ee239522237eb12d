#!/usr/bin/env python3
"""Train and evaluate the rows of a suite for several seeds, and write one table.

    python tools/ablate.py --suite quick --size tiny --seeds 0 1 2

Every training and every evaluation is a process of its own. What is done is not done again: after an interruption, call
it with the same options. OUTPUT/results.md has the tables, OUTPUT/results.json everything. Ends with 1 if a job has
failed, 2 if it cannot do its work. docs/ablations.md tells how a suite is written.
"""

import argparse
import contextlib
import signal
import subprocess
import sys
from pathlib import Path

import torch

from vod2.ablation import (
    Comparison,
    Executor,
    LocalExecutor,
    Plan,
    RayExecutor,
    Records,
    comparisons,
    execute,
    load_suite,
    locked,
    make_plan,
    measure,
    measured_seconds,
    render_plan,
)
from vod2.engine import cli
from vod2.engine.registration import add_register_option

TOOLS = Path(__file__).resolve().parent
SUITES = TOOLS.parent / "configs" / "suites"
TRAIN_NET, COMPARE = str(TOOLS / "train_net.py"), str(TOOLS / "compare.py")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_register_option(parser)
    parser.add_argument("--suite", required=True, help="name of a file in configs/suites, or a file")
    parser.add_argument("--size", required=True, help="one of the suite's sizes, such as tiny")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the trainings (default: 0)")
    parser.add_argument("--rows", nargs="+", help="only these rows, and the trainings that they start from")
    parser.add_argument("--output", type=Path, help="folder of everything (default: output/suites/SUITE_SIZE)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda where there is a GPU")
    parser.add_argument("--jobs", type=int, help="processes at once (default: one for each GPU, or for each CPU core)")
    parser.add_argument("--ray", action="store_true", help="run them as tasks of Ray, on its cluster")
    parser.add_argument("--estimate", action="store_true", help="measure what an iteration of each row takes, first")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the plan and what it costs, and run nothing of it"
    )
    parser.add_argument("--compare", action="store_true", help="when all is done, also bootstrap over videos and seeds")
    return parser.parse_args()


def make_executor(args: argparse.Namespace, lock: int | None) -> Executor:
    if args.ray:
        return RayExecutor(args.device, args.jobs)
    return LocalExecutor(args.device, args.jobs, inherited=() if lock is None else (lock,))


def run(plan: Plan, executor: Executor, compare: bool) -> None:
    """Do what is left of the plan, and compare what is done; exit code 1 if something has failed."""
    records = Records(plan)
    # At once, so that results from before an interruption can be read while the first new job runs.
    records.write_results()
    failed = execute(plan, records, executor, TRAIN_NET, progress=_print_line, changed=records.write_results)
    print("\n" + records.report(), flush=True)
    print(f"{plan.output / 'results.md'}  {plan.output / 'results.json'}")
    if failed:
        print(f"{len(failed)} jobs have failed or were left out: their reasons stand above", file=sys.stderr)
    broken = (
        [comparison.folder for comparison in comparisons(plan, records) if not run_comparison(comparison)]
        if compare
        else []
    )
    if failed or broken:
        sys.exit(1)


def run_comparison(comparison: Comparison) -> bool:
    """Run tools/compare.py, which prints what is wrong; whether it ended well."""
    print(f"\n== {comparison.folder}", flush=True)
    return not subprocess.call([sys.executable, COMPARE, *comparison.words, "--output", str(comparison.folder)])


def main() -> None:
    args = parse()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the trainings are ended, too
    path = Path(args.suite)
    suite = load_suite(path if path.suffix in (".yaml", ".yml") else SUITES / f"{args.suite}.yaml")
    args.device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    output = args.output or Path("output", "suites", f"{suite.name}_{args.size}")

    def current_plan() -> Plan:
        times = measured_seconds(output, args.device)
        plan = make_plan(suite, args.size, args.seeds, output, args.device, args.rows, times)
        Records(plan).check()
        return plan

    plan = current_plan()  # a mistake is told before anything is written
    writes = args.estimate or not args.dry_run
    # Two runs in one folder would replace each other's results; a dry run writes nothing and may look any time.
    with locked(plan.output) if writes else contextlib.nullcontext() as lock:
        executor = make_executor(args, lock)
        try:
            if args.estimate:
                measure(plan, executor, TRAIN_NET, args.device, _print_line)
            plan = current_plan()  # with what was measured, and what another process has done until now
            print(render_plan(plan, Records(plan), executor.slots), flush=True)
            if not args.dry_run:
                run(plan, executor, args.compare)
        finally:
            executor.close()


def _print_line(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    cli.run(main)
