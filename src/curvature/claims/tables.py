"""Verdicts as a result table (CSV), and the Markdown page made from it."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from curvature.claims.effects import HEADING, part_text, shown
from curvature.claims.files import results_file, verdicts_file
from curvature.claims.schema import Claim, Claims, Verdict
from curvature.claims.statistics import Effect
from curvature.claims.verdicts import ClaimVerdict, PartVerdict
from curvature.errors import ConfigError
from curvature.rundir import write_atomically

NUMBERS = ("effect", "low", "high", "p", "n")
COLUMNS = (
    *("claim", "verdict", "part", "kind", "role", "part_verdict"),
    *NUMBERS,
    *("threshold", "scale", "seeds"),
)
ROLES = ("deciding", "informative")


def read_table(path: Path, claims: Claims) -> dict[str, ClaimVerdict]:
    """The committed verdicts by claim id; rows of claims that the claims file does not have are left out.

    The table has one row for each part of each claim, with the columns :data:`COLUMNS`; a claim without parts has one
    row. Of a bound, ``effect`` is the worst value, ``low`` and ``high`` are the range over seeds and ``threshold`` is
    the limit.

    Returns:
        Verdicts without run ids; none if there is no such file.

    Raises:
        ConfigError: a table that is none; it names the file, the column and the claim.
    """
    try:
        text = path.read_text()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), None, f"it is not a result table: {error}") from None
    reader = csv.DictReader(io.StringIO(text))
    if missing := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
        raise ConfigError(f"{path}: columns", reader.fieldnames, f"a result table also has {', '.join(missing)}")
    rows: dict[str, list[dict[str, str]]] = {}
    try:
        for row in reader:
            rows.setdefault(row["claim"], []).append(row)
    except csv.Error as error:
        raise ConfigError(str(path), None, f"it is not a result table: {error}") from None
    return {claim.id: _committed(path, claim, rows[claim.id]) for claim in claims.claims if claim.id in rows}


def table_text(verdicts: Sequence[ClaimVerdict]) -> str:
    """The result table of ``verdicts``; :func:`read_table` reads it."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(row for verdict in verdicts for row in _rows(verdict))
    return stream.getvalue()


def markdown(verdicts: Sequence[ClaimVerdict]) -> str:
    """A Markdown table: claim, verdict, effects, the paper's figure."""
    lines = [f"| claim | verdict | {HEADING} | paper |", "|---|---|---|---|"]
    lines += [cells(title(v.claim), f"**{v.verdict}**", effects(v), figure(v.claim)) for v in verdicts]
    return "\n".join(lines) + "\n"


def cells(*texts: str) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in texts) + " |"


def title(claim: Claim) -> str:
    """Id and statement."""
    return f"{claim.id}: {claim.statement}"


def figure(claim: Claim) -> str:
    """What the paper reports, marked † if that is not confirmed."""
    return claim.reported.text + ("" if claim.reported.confirmed else " †")


def effects(verdict: ClaimVerdict) -> str:
    """A cell with every part and its verdict, or why there is none."""
    if verdict.verdict == "not run" and verdict.claim.not_runnable:
        return verdict.claim.not_runnable
    return "<br>".join(map(part_text, verdict.parts))


def update_tables(verdicts: Sequence[ClaimVerdict], claims: Claims, file: Path) -> None:
    """Write ``verdicts`` into the result table beside a claims file and make its Markdown page anew from the table.

    Other claims stay as they are. Each file is replaced as a whole or not at all.

    Args:
        verdicts: what has been judged now.
        claims: the claims file, read.
        file: the claims file.

    Raises:
        ConfigError: the table that is there cannot be read.
    """
    table = results_file(file)
    rows = read_table(table, claims) | {verdict.claim.id: verdict for verdict in verdicts}
    write_atomically(table, table_text(_ordered(rows, claims)))
    write_atomically(verdicts_file(file), markdown(_ordered(read_table(table, claims), claims)))


def _ordered(verdicts: Mapping[str, ClaimVerdict], claims: Claims) -> list[ClaimVerdict]:
    return [verdicts[claim.id] for claim in claims.claims if claim.id in verdicts]


def _rows(verdict: ClaimVerdict) -> list[list[str]]:
    head, tail = [verdict.claim.id, verdict.verdict], [verdict.scale, " ".join(map(str, verdict.seeds))]
    if not verdict.parts:
        return [[*head, *[""] * (len(COLUMNS) - 4), *tail]]
    rows = []
    for part in verdict.parts:
        numbers = [""] * len(NUMBERS)
        if effect := part.effect:
            limit = part.threshold[0] if part.threshold else effect.value
            rest = (f"{number:.6g}" for number in (effect.low, effect.high, effect.p))
            numbers = [shown(effect.value, limit, 6), *rest, str(effect.n)]
        threshold = " ".join(f"{bound:.10g}" for bound in part.threshold)
        rows.append([*head, part.name, part.kind, ROLES[part.informative], part.verdict, *numbers, threshold, *tail])
    return rows


def _committed(path: Path, claim: Claim, rows: Sequence[dict[str, str]]) -> ClaimVerdict:
    def choice(row: dict[str, str], column: str, known: Sequence[str]) -> str:
        if row[column] not in known:
            raise _bad(path, column, row, f"one of {', '.join(known)}")
        return row[column]

    def numbers(row: dict[str, str], column: str) -> list[float]:
        try:
            return [float(word) for word in row[column].split()]
        except (ValueError, AttributeError):
            raise _bad(path, column, row, "a number") from None

    def whole(row: dict[str, str], column: str) -> list[int]:
        found = numbers(row, column)
        if not all(number.is_integer() for number in found):
            raise _bad(path, column, row, "whole numbers")
        return [int(number) for number in found]

    known: tuple[Verdict, ...] = get_args(Verdict)
    parts = []
    for row in rows:
        choice(row, "verdict", known)
        if not row["part"]:
            continue
        found = [number for column in NUMBERS for number in numbers(row, column)]
        if found and len(found) < len(NUMBERS):
            raise _bad(path, "effect", row, f"the numbers {', '.join(NUMBERS)}, or none of them")
        threshold = tuple(numbers(row, "threshold"))
        if found and row["kind"] in ("bound", "excess") and len(threshold) != 1:
            raise _bad(path, "threshold", row, "the limit of a bound")
        effect = Effect(found[0], found[1], found[2], found[3], *whole(row, "n")) if found else None
        verdict = known[known.index(choice(row, "part_verdict", known))]
        informative = choice(row, "role", ROLES) == "informative"
        parts.append(PartVerdict(row["part"], verdict, effect, threshold, row["kind"], informative=informative))
    first = rows[0]
    verdict = known[known.index(first["verdict"])]
    return ClaimVerdict(claim, verdict, parts, first["scale"], whole(first, "seeds"), {}, 0, committed=True)


def _bad(path: Path, column: str, row: dict[str, str], allowed: str) -> ConfigError:
    return ConfigError(f"{path}: column {column} of claim {row['claim']}", row[column], allowed)
