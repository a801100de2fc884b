"""A training loop as seen by the tracker, for tests that kill it.

Usage: ``trainee.py DIRECTORY URI EXPERIMENT STEPS PAUSE_S``. It forces its metrics to disk before each checkpoint
(every 10 steps), continues from the last one, and ends before STEPS in good order if there is ``DIRECTORY/enough``.
"""

import json
import os
import sys
import time
from pathlib import Path

from curvature.tracking import Tracker

CHECKPOINT_EVERY = 10


def loss(step: int) -> float:
    return 1.0 / (step + 3)


def main() -> None:
    directory, uri, experiment = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    steps, pause = int(sys.argv[4]), float(sys.argv[5])
    tags = {"fingerprint": directory.name, "arm": "base", "seed": "0", "scale": "desk"}
    tracker = Tracker(directory, uri, experiment, "base-s0", tags, {"steps": steps}, flush_seconds=0.05)
    tracker.start()
    checkpoint = directory / "checkpoint.json"
    first = json.loads(checkpoint.read_text())["step"] if checkpoint.exists() else 0
    for step in range(first, steps):
        if step % CHECKPOINT_EVERY == 0:
            if (directory / "enough").exists():
                break
            tracker.sync()
            temporary = checkpoint.with_suffix(".tmp")
            temporary.write_text(json.dumps({"step": step}))
            temporary.replace(checkpoint)
        tracker.log_metrics({"train/loss": loss(step)}, step)
        if step % 5 == 4:
            tracker.log_metrics({"val/accuracy": step / steps}, step)
        time.sleep(pause)
    result = directory / "artifacts" / "result.txt"
    result.parent.mkdir(exist_ok=True)
    result.write_text("done")
    tracker.log_artifact(result)
    delivered = tracker.finish("FINISHED", timeout_s=60)
    print(json.dumps({"delivered": delivered, "run_id": tracker.run_id, "pid": os.getpid()}))


if __name__ == "__main__":
    main()
