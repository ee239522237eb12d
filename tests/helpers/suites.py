"""Suites for tests, and a train_net.py that trains nothing: it writes what the real one writes, in no time."""

import json
from pathlib import Path

import yaml

QUICK = Path(__file__).resolve().parents[2] / "configs" / "quick"

FAKE_TRAIN_NET = """
import json, sys, time
from pathlib import Path

words = sys.argv[1:]
first = next(i for i, word in enumerate(words) if word.isupper() or "." in word and word.split(".")[0].isupper())
opts = dict(zip(words[first::2], words[first + 1 :: 2], strict=True))
folder = Path(opts["OUTPUT_DIR"])
behaviour = json.loads(Path(__file__).with_name("behaviour.json").read_text())
folder.mkdir(parents=True, exist_ok=True)
context = words[words.index("--context") + 1] if "--eval-only" in words else "train"
name = f"{folder.parent.name}/{opts['SEED']}/{context}"
with open(Path(__file__).with_name("calls.txt"), "a") as calls:
    print(name, file=calls)
print("begin", name)
time.sleep(behaviour.get("sleep", 0))
if name in behaviour.get("fail", []):
    sys.exit("error: out of luck")
if context == "train":
    (folder / "model_final.safetensors").write_text(name)
    lines = [{"time": 0.5, "iteration": 4}, {"time": 0.25, "iteration": 9}]
    (folder / "metrics.json").write_text("".join(json.dumps(line) + "\\n" for line in lines))
else:
    assert Path(opts["MODEL.WEIGHTS"]).is_file()
    where = folder / "inference" / ("synthetic_val" + ("" if context == "own" else "_" + context))
    where.mkdir(parents=True, exist_ok=True)
    results = {"context": context, "vid": {"AP50": behaviour.get("AP50", {}).get(name, 50.0)}}
    (where / "results.json").write_text(json.dumps(results))
"""


def fake_train_net(folder: Path, **behaviour) -> str:
    """Write the script and return its path.

    behaviour: AP50 {"row/seed/context": value}; fail ["row/seed/context or train"]; sleep, in seconds.
    """
    (folder / "train_net.py").write_text(FAKE_TRAIN_NET)
    (folder / "behaviour.json").write_text(json.dumps(behaviour))
    return str(folder / "train_net.py")


def calls(folder: Path) -> list[str]:
    """What the fake was called for, "row/seed/context" or "row/seed/train", in order."""
    path = folder / "calls.txt"
    return path.read_text().split() if path.is_file() else []


def write_suite(folder: Path, rows: list[dict] | None = None, **content) -> Path:
    """A suite file; without rows a single frame and an RDN that starts from it."""
    if rows is None:
        rows = [
            {"name": "single", "config": str(QUICK / "FasterRCNN.yaml")},
            {"name": "RDN", "config": str(QUICK / "RDN.yaml"), "base": "single", "contexts": ["own", "none"]},
        ]
    sizes = {"tiny": {"iterations": 10}, "full": {}}
    path = folder / "mine.yaml"
    whole = ({} if "extends" in content else {"sizes": sizes}) | {"rows": rows} | content
    path.write_text(yaml.safe_dump(whole, sort_keys=False))
    return path
