"""Judge what has been run, without training: ``python report.py [experiment=NAME] [report.strict=true] [OVERRIDES]``.

Delivers what an outage kept from MLflow, prints the verdicts of the paper (of all papers by default), writes
``outputs/report/index.html`` and keeps it with MLflow. With ``report.write=true`` the tables in ``experiments/`` are
written too. With ``report.accept=true`` the verdicts of the table in ``experiments/`` become the expected ones of the
claims file; after a change of verdicts, ``report.write=true report.accept=true`` brings both up to date. Exit code 1
if, with ``report.strict=true``, a verdict differs from the expected one of the claims file.
"""

import sys

from curvature.cli import main, report

if __name__ == "__main__":
    sys.exit(main(lambda: report(sys.argv[1:])))
