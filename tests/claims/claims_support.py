"""Claims files and fabricated results for tests."""

import random
from pathlib import Path
from typing import Any

from curvature.claims.expression import Expression
from curvature.claims.files import experiment_name
from curvature.claims.papers import PaperVerdicts
from curvature.claims.plan import PlannedRun
from curvature.claims.schema import Claims, load
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


def fabricated(file: Path, scale: str = "desk", uri: str = "http://tracking:5000") -> PaperVerdicts:
    """A committed claims file judged on made-up metrics, the same at every call."""
    claims = load(file)
    generator = random.Random(0)
    runs, results = [], {}
    for arm, entry in claims.arms.items():
        shift = generator.uniform(0.2, 0.8)
        for value in entry.values or [None]:
            for seed in sorted({seed for claim in claims.claims for seed in claim.seeds or claims.seeds}):
                run = PlannedRun(arm, value, seed, f"{arm}/{value}/{seed}", [])
                metrics = {name: abs(generator.gauss(shift, 0.1)) for name in _metrics(claims)}
                runs.append(run)
                results[run.fingerprint] = Result(f"id-{arm}-{seed}", metrics)
    verdicts = judge(claims, claims.claims, runs, results, scale)
    paper = file.parent.name
    return PaperVerdicts(experiment_name(paper, scale), paper, scale, claims, verdicts, uri)


def _metrics(claims: Claims) -> list[str]:
    parts = [part for claim in claims.claims for part in claim.decide]
    texts = [Expression(text) for claim in claims.claims for text in claim.requires]
    found = {name for part in parts for expression in part.expressions() for name, _ in expression.terms}
    found |= {name for expression in texts for name, _ in expression.terms}
    return sorted(found | {part.metric for part in parts if hasattr(part, "metric")})
