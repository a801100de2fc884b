"""Judge what has been run, without training: ``python report.py [experiment=NAME [claim=ID,ID]] [OPTIONS]``.

Delivers what an outage kept from MLflow, prints the verdicts of the paper (of all papers by default), writes
``outputs/report/index.html`` and keeps it with MLflow. A claim whose runs are not all in the store is shown with its
committed result, marked as such. Options are Hydra overrides such as ``outputs=FOLDER``, ``--config-dir FOLDER``, and

- ``report.write=true``: the tables in ``experiments/`` are written too; with ``claim=`` only the rows of those claims.
  Rows of claims whose runs are not all in the store are kept.
- ``report.accept=true``: the verdicts of the table in ``experiments/`` become the expected ones of the claims file;
  after a change of verdicts, ``report.write=true report.accept=true`` brings both up to date.
- ``report.forget=true``: committed results count for nothing; with ``report.write=true``, rows of claims whose runs are
  not all in the store become "not run".
- ``report.strict=true``: exit code 1 if a verdict by the runs of the store differs from the expected one of the claims
  file.
"""

import sys

from curvature.claims.command import report
from curvature.cli import main

if __name__ == "__main__":
    sys.exit(main(lambda: report(sys.argv[1:], __doc__)))
