"""Judge what has been run, without training: ``python report.py [experiment=NAME [claim=ID,ID]] [OPTIONS]``.

Delivers what an outage kept from MLflow, prints the verdicts of the paper (of all papers by default), writes
``outputs/report/index.html`` and keeps it with MLflow. Options are Hydra overrides such as ``outputs=FOLDER``, and

- ``report.write=true``: the tables in ``experiments/`` are written too; with ``claim=`` only the rows of those claims.
- ``report.accept=true``: the verdicts of the table in ``experiments/`` become the expected ones of the claims file;
  after a change of verdicts, ``report.write=true report.accept=true`` brings both up to date.
- ``report.strict=true``: exit code 1 if a verdict differs from the expected one of the claims file.
"""

import sys

from curvature.cli import main, report

if __name__ == "__main__":
    sys.exit(main(lambda: report(sys.argv[1:])))
