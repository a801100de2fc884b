"""From finished runs to verdicts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev

from curvature.claims.expression import Expression
from curvature.claims.plan import PlannedRun
from curvature.claims.schema import (
    Best,
    Bound,
    Claim,
    Claims,
    Decision,
    Equal,
    Greater,
    Monotone,
    NotBelow,
    Positive,
    Rate,
    Tuned,
    Verdict,
)
from curvature.claims.statistics import Effect, mean_effect, rank_effect, slope_effect

MIN_SEEDS = 3
"""With fewer paired seeds an interval says nothing, whatever its width: the part is inconclusive."""

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class PartVerdict:
    """One decision of a claim.

    Attributes:
        name: what was compared.
        verdict: its own verdict.
        effect: estimate and interval; None before the runs are complete.
        threshold: what the effect is compared with; for a slope or an equivalence, both bounds.
        kind: of the decision; ``excess`` is a bound whose limit is measured too, its effect value minus limit.
        values: per seed (or per run) what entered the effect.
        informative: shown, not decided on.
        detail: why, where the numbers do not say it.
    """

    name: str
    verdict: Verdict
    effect: Effect | None = None
    threshold: tuple[float, ...] = (0.0,)
    kind: str = "greater"
    values: dict[str, float] = field(default_factory=dict)
    informative: bool = False
    detail: str = ""


@dataclass(frozen=True)
class ClaimVerdict:
    """A claim with its verdict.

    Attributes:
        claim: the claim.
        verdict: reproduced if all deciding parts are, contradicted if one is, else inconclusive; ``not run`` until
            every planned run has finished.
        parts: its decisions.
        scale: of the runs: smoke, desk, lab or paper.
        seeds: of the runs.
        run_ids: MLflow runs that were judged, by ``<arm>-s<seed>``.
        planned: number of runs that the claim needs.
        committed: read from the result table, not judged from the runs of a store.
    """

    claim: Claim
    verdict: Verdict
    parts: list[PartVerdict]
    scale: str
    seeds: list[int]
    run_ids: dict[str, str]
    planned: int
    committed: bool = False

    @property
    def caveat(self) -> str:
        """What a verdict of this scale does not say."""
        if self.scale == "paper" or self.verdict not in ("reproduced", "contradicted", "inconclusive"):
            return ""
        return f"direction at {self.scale} scale; the paper's magnitude needs its own scale (experiment=paper/...)"


@dataclass(frozen=True)
class Result:
    """A finished run, as far as judging needs it."""

    run_id: str
    metrics: Metrics


def judge(
    claims: Claims, selected: Sequence[Claim], runs: Sequence[PlannedRun], results: Mapping[str, Result], scale: str
) -> list[ClaimVerdict]:
    """Verdicts of the selected claims.

    Args:
        claims: the claims file.
        selected: claims to judge.
        runs: from :func:`curvature.claims.plan.plan`.
        results: finished runs by fingerprint.
        scale: scale of the runs.
    """
    return [_judge_claim(claims, claim, runs, results, scale) for claim in selected]


def _judge_claim(
    claims: Claims, claim: Claim, runs: Sequence[PlannedRun], results: Mapping[str, Result], scale: str
) -> ClaimVerdict:
    seeds = claim.seeds or claims.seeds
    arms = {arm for part in claim.decide for arm in part.arms}
    needed = [run for run in runs if run.arm in arms and run.seed in seeds]
    done = [run for run in needed if run.fingerprint in results]
    ids = {_label(run): results[run.fingerprint].run_id for run in done}
    if claim.not_runnable is not None or not needed or len(done) < len(needed):
        detail = claim.not_runnable or f"{len(done)} of {len(needed)} runs finished"
        parts = [_verdict(part, "not run", detail=detail) for part in claim.decide]
        return ClaimVerdict(claim, "not run", parts, scale, seeds, ids, len(needed))
    parts = [_judge_part(part, [run for run in needed if run.arm in part.arms], results) for part in claim.decide]
    if unmet := _unmet(claim, _per_seed(needed, results)):
        parts = [replace(part, verdict="not testable", detail=unmet) for part in parts]
    return ClaimVerdict(claim, _combined(parts), parts, scale, seeds, ids, len(needed))


def _unmet(claim: Claim, table: Mapping[int, Mapping[str, Metrics]]) -> str:
    """Which requirement does not hold in which seeds; empty if all do."""
    for expression in map(Expression, claim.requires):
        try:
            seeds = [seed for seed, arms in sorted(table.items()) if not expression(arms) > 0]
        except KeyError as error:
            return f"no metric {error.args[0]}"
        if seeds:
            return f"requires {expression.text} > 0: not so with seed {', '.join(map(str, seeds))}"
    return ""


def _combined(parts: Sequence[PartVerdict]) -> Verdict:
    verdicts = {part.verdict for part in parts if not part.informative}
    for decisive in ("contradicted", "not testable", "inconclusive"):
        if decisive in verdicts:
            return decisive
    return "reproduced"


def _judge_part(part: Decision, runs: Sequence[PlannedRun], results: Mapping[str, Result]) -> PartVerdict:
    try:
        match part:
            case Greater() | Positive():
                return _mean(part, runs, results)
            case NotBelow():
                (expression,) = part.expressions()
                table = sorted(_per_seed(runs, results).items())
                return _not_below(part, {f"seed {seed}": expression(arms) for seed, arms in table})
            case Tuned():
                return _tuned(part, runs, results)
            case Bound():
                return _bound(part, runs, results)
            case Equal():
                return _equal(part, runs, results)
            case Rate() | Monotone() | Best():
                return _swept(part, runs, results)
    except KeyError as error:
        return _verdict(part, "not testable", detail=f"no metric {error.args[0]}")
    raise TypeError(type(part))


def _verdict(
    part: Decision,
    verdict: Verdict,
    effect: Effect | None = None,
    threshold: tuple[float, ...] = (0.0,),
    values: Mapping[str, float] | None = None,
    detail: str = "",
) -> PartVerdict:
    measured = isinstance(part, Bound) and bool(Expression(part.at_most).terms)
    kind = "excess" if measured else str(getattr(part, "kind", ""))
    return PartVerdict(_name(part), verdict, effect, threshold, kind, dict(values or {}), part.informative, detail)


def _per_seed(runs: Sequence[PlannedRun], results: Mapping[str, Result]) -> dict[int, dict[str, Metrics]]:
    table: dict[int, dict[str, Metrics]] = {}
    for run in runs:
        table.setdefault(run.seed, {})[run.arm] = results[run.fingerprint].metrics
    return table


def _mean(part: Greater | Positive, runs: Sequence[PlannedRun], results: Mapping[str, Result]) -> PartVerdict:
    (expression,) = part.expressions()
    values = {f"seed {seed}": expression(arms) for seed, arms in sorted(_per_seed(runs, results).items())}
    ratio = isinstance(part, Greater) and part.statistic == "ratio"
    margin = part.margin if part.margin is not None else (1.0 if ratio else 0.0)
    effect = mean_effect(list(values.values()))
    threshold = math.log(margin) if ratio else margin
    verdict = _side(effect, threshold)
    if ratio:
        effect = Effect(math.exp(effect.value), _exp(effect.low), _exp(effect.high), effect.p, effect.n)
        values = {name: math.exp(value) for name, value in values.items()}
    return _verdict(part, verdict, effect, (margin,), values)


def _exp(value: float) -> float:
    return math.exp(min(value, 700.0))


def _side(effect: Effect, threshold: float) -> Verdict:
    if effect.n < MIN_SEEDS or math.isnan(effect.value):
        return "inconclusive"
    if effect.low > threshold:
        return "reproduced"
    return "contradicted" if effect.high < threshold else "inconclusive"


def _not_below(part: NotBelow | Tuned, values: dict[str, float], detail: str = "") -> PartVerdict:
    effect = mean_effect(list(values.values()))
    if effect.n < MIN_SEEDS or math.isnan(effect.value):
        return _verdict(part, "inconclusive", effect, (), values, detail)
    least = -part.errors * stdev(values.values()) / math.sqrt(effect.n)
    holds = effect.value >= least or math.isclose(effect.value, least, rel_tol=1e-9)
    verdict: Verdict = "reproduced" if holds else "contradicted"
    return _verdict(part, verdict, effect, (least,), values, detail)


def _tuned(part: Tuned, runs: Sequence[PlannedRun], results: Mapping[str, Result]) -> PartVerdict:
    seeds = sorted({run.seed for run in runs})
    searched, chosen, metrics = seeds[: part.search], {}, {}
    for arm in part.arms:
        found: dict[float, dict[int, float]] = {}
        for run in (run for run in runs if run.arm == arm):
            assert run.value is not None
            found.setdefault(run.value, {})[run.seed] = _metric(part.metric, run, results)
        means = {value: fmean(by_seed[seed] for seed in searched) for value, by_seed in found.items()}
        best = max(means, key=lambda value: -math.inf if math.isnan(means[value]) else means[value])
        chosen[arm], metrics[arm] = best, found[best]
    values = {f"seed {s}": metrics[part.better][s] - metrics[part.worse][s] for s in seeds[part.search :]}
    return _not_below(part, values, ", ".join(f"{arm} at {value:g}" for arm, value in chosen.items()))


def _metric(name: str, run: PlannedRun, results: Mapping[str, Result]) -> float:
    metrics = results[run.fingerprint].metrics
    if name not in metrics:
        raise KeyError(f"{name} of arm {run.arm}")
    return metrics[name]


def _bound(part: Bound, runs: Sequence[PlannedRun], results: Mapping[str, Result]) -> PartVerdict:
    value, most, *where = part.expressions()
    values, excess = {}, {}
    for seed, arms in sorted(_per_seed(runs, results).items()):
        if not where or where[0](arms) > 0:
            values[f"seed {seed}"] = value(arms)
            excess[f"seed {seed}"] = value(arms) - most(arms)
    detail = f"{len(excess)} of {len({run.seed for run in runs})} seeds eligible" if where else ""
    if not excess:
        return _verdict(part, "not testable", detail=detail)
    worst = max(excess.values(), key=_nan_last)
    verdict: Verdict = "contradicted" if not worst <= part.tolerance else "reproduced"
    if verdict == "reproduced" and len(excess) < MIN_SEEDS:
        verdict = "inconclusive"
    shown, limit = (excess, part.tolerance) if most.terms else (values, most({}) + part.tolerance)
    worst = max(shown.values(), key=_nan_last)
    effect = Effect(worst, min(shown.values()), worst, math.nan, len(shown))
    return _verdict(part, verdict, effect, (limit,), shown, detail)


def _nan_last(number: float) -> float:
    return math.inf if math.isnan(number) else number


def _equal(part: Equal, runs: Sequence[PlannedRun], results: Mapping[str, Result]) -> PartVerdict:
    (expression,) = part.expressions()
    values = {f"seed {seed}": expression(arms) for seed, arms in sorted(_per_seed(runs, results).items())}
    effect = mean_effect(list(values.values()))
    bounds = part.target - part.tolerance, part.target + part.tolerance
    return _verdict(part, _inside(effect, bounds), effect, bounds, values)


def _inside(effect: Effect, bounds: tuple[float, float]) -> Verdict:
    if effect.n < MIN_SEEDS or math.isnan(effect.value):
        return "inconclusive"
    if bounds[0] <= effect.low and effect.high <= bounds[1]:
        return "reproduced"
    return "contradicted" if effect.high < bounds[0] or effect.low > bounds[1] else "inconclusive"


def _swept(part: Rate | Monotone | Best, runs: Sequence[PlannedRun], results: Mapping[str, Result]) -> PartVerdict:
    points = []
    for run in runs:
        assert run.value is not None
        points.append((f"{run.value:g}, seed {run.seed}", run.value, _metric(part.metric, run, results)))
    x, y = [point[1] for point in points], [point[2] for point in points]
    values = {name: metric for name, _, metric in points}
    if isinstance(part, Best):
        means = {value: fmean(metric for _, at, metric in points if at == value) for value in dict.fromkeys(x)}
        lead = means.pop(part.value) - max(mean for mean in means.values() if not math.isnan(mean))
        verdict: Verdict = "reproduced" if lead >= 0 else "contradicted"
        return _verdict(part, verdict, Effect(lead, lead, lead, math.nan, len(y)), (0.0,), values)
    if isinstance(part, Rate):
        effect = slope_effect(x, y)
        return _verdict(part, _inside(effect, part.interval), effect, part.interval, values)
    effect = rank_effect(x, y)
    sign = 1.0 if part.direction == "increasing" else -1.0
    low, high = sorted((sign * effect.low, sign * effect.high))
    verdict = _side(Effect(sign * effect.value, low, high, effect.p, effect.n), 0.0)
    return _verdict(part, verdict, effect, (0.0,), values)


def _name(part: Decision) -> str:
    if part.name is not None:
        return part.name
    match part:
        case Greater():
            sign = "/" if part.statistic == "ratio" else "-"
            return f"{part.metric}: {part.better} {sign} {part.worse}"
        case NotBelow() | Tuned():
            tuned = ", tuned alike" if isinstance(part, Tuned) else ""
            return f"{part.metric}{tuned}: {part.better} - {part.worse} >= -{part.errors:g} standard errors"
        case Positive() | Equal():
            return part.value
        case Bound():
            return f"{part.value} <= {part.at_most}"
        case Best():
            return f"{part.metric} of {part.arm} at {part.value:g} over the next best"
        case Rate() | Monotone():
            return f"{part.metric} over {part.arm}"
    return type(part).__name__


def _label(run: PlannedRun) -> str:
    swept = f"-{run.value:g}" if run.value is not None else ""
    return f"{run.arm}{swept}-s{run.seed}"
