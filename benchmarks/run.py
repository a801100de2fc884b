"""Run every benchmark of this folder, one after the other, each in a process of its own.

    python benchmarks/run.py [NAME ...]

Results are printed and written to ``outputs/benchmarks/<name>.json``. A benchmark that fails is named at the end, and
the exit code is 1: a peer that cannot be imported is never a win.
"""

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def main(wanted: list[str]) -> int:
    known = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != Path(__file__).stem)
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        print(f"error: {', '.join(unknown)}: choose from {', '.join(known)}", file=sys.stderr)
        return 1
    results = FOLDER.parent / "outputs" / "benchmarks"
    results.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in wanted or known:
        print(f"== {name}", flush=True)
        command = [sys.executable, str(FOLDER / f"{name}.py"), "--json", str(results / f"{name}.json")]
        if subprocess.run(command, cwd=FOLDER.parent).returncode != 0:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
