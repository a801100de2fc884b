"""Claims files and fabricated results for tests."""

from typing import Any

from curvature.claims.plan import PlannedRun
from curvature.claims.schema import Claims
from curvature.claims.verdicts import ClaimVerdict, Result, judge

PAPER = {"title": "T", "authors": "A", "venue": "V", "year": 2026}


def claims_of(*decide: dict[str, Any], seeds: int = 5, arms: dict[str, Any] | None = None, **fields: Any) -> Claims:
    """One claim C1 over the arms ``a`` and ``b``, or ``arms``; ``fields`` are further fields of the claim."""
    claim = {"id": "C1", "statement": "s", "source": "x", "reported": {"text": "r"}, "decide": list(decide)} | fields
    content = {
        "paper": PAPER,
        "seeds": list(range(seeds)),
        "arms": arms or {"a": [], "b": []},
        "claims": [claim],
    }
    return Claims.model_validate(content)


def verdict_of(claims: Claims, values: dict[str, list[dict[str, float]]], scale: str = "desk") -> ClaimVerdict:
    """Judge C1 on fabricated metrics: arm -> one dict a seed (for a swept arm, values times seeds, value-major)."""
    runs, results = [], {}
    for arm, entry in claims.arms.items():
        swept = entry.values or [None]
        table = values.get(arm, [])
        for index, (value, seed) in enumerate((v, s) for v in swept for s in claims.seeds):
            address = f"{arm}/{value}/{seed}"
            runs.append(PlannedRun(arm, value, seed, address, []))
            if index < len(table):
                results[address] = Result(f"run-{address}", table[index])
    (found,) = judge(claims, claims.claims, runs, results, scale)
    return found
