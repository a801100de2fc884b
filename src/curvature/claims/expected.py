"""Expected verdicts in a claims file: those of the result table beside it."""

import re
from pathlib import Path

from curvature.claims.schema import Claims, ClaimsError, Verdict, load
from curvature.claims.scoreboard import board_of
from curvature.rundir import write_atomically

CLAIM = re.compile(r"^( *)- id: *[\"']?([^\s\"'#]+)", re.MULTILINE)


def expected_verdicts(path: Path) -> dict[str, Verdict | None]:
    """By claim id, the verdict of the result table beside the claims file ``path``; None for what is not run.

    What cannot be run is expected to stay so only until somebody runs it.
    """
    verdicts = {verdict.claim.id: verdict.verdict for verdict in board_of(path).verdicts}
    return {name: None if verdict == "not run" else verdict for name, verdict in verdicts.items()}


def accept(path: Path) -> list[str]:
    """Write :func:`expected_verdicts` into the claims file ``path``, as ``expected:`` below the claim's id.

    A claim that the result table lacks keeps what it has. Nothing else of the file changes, comments and line breaks
    included.

    Returns:
        One line for each claim whose expected verdict has changed.

    Raises:
        ClaimsError: the file does not follow the schema, or a claim does not begin with a line ``- id: NAME``.
    """
    before = load(path)
    held = board_of(path).committed
    wanted = expected_verdicts(path)
    wanted |= {claim.id: claim.expected for claim in before.claims if claim.id not in held}
    changed = {claim.id: claim.expected for claim in before.claims if claim.expected != wanted[claim.id]}
    if not changed:
        return []
    text = path.read_text()
    starts = [match for match in CLAIM.finditer(text) if match[2] in wanted]
    ends = [match.start() for match in starts[1:]] + [len(text)]
    pieces = [text[: starts[0].start()]] if starts else [text]
    for match, end in zip(starts, ends, strict=True):
        block = text[match.start() : end]
        pieces.append(_with_expected(block, match[1], wanted[match[2]]) if match[2] in changed else block)
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text("".join(pieces))
    try:
        if load(draft) != _replaced(before, wanted):
            raise ClaimsError(
                f"{path}: a claim does not begin with a line '- id: NAME'; write its expected verdict by hand"
            )
    finally:
        draft.unlink()
    write_atomically(path, "".join(pieces))
    return [
        f"{path.parent.name} {name}: {old or 'not run'} was expected, now {wanted[name] or 'nothing is'}"
        for name, old in changed.items()
    ]


def _with_expected(block: str, indent: str, verdict: str | None) -> str:
    block = re.sub(rf"^{indent}  expected:.*\n", "", block, flags=re.MULTILINE)
    first, _, rest = block.partition("\n")
    return f"{first}\n{rest}" if verdict is None else f"{first}\n{indent}  expected: {verdict}\n{rest}"


def _replaced(claims: Claims, wanted: dict[str, Verdict | None]) -> Claims:
    fresh = [claim.model_copy(update={"expected": wanted[claim.id]}) for claim in claims.claims]
    return claims.model_copy(update={"claims": fresh})
