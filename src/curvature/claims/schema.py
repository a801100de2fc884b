"""The shape of ``experiments/<paper>/claims.yaml``."""

from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from curvature.claims.expression import Expression
from curvature.errors import CurvatureError, near_matches

Verdict = Literal["reproduced", "contradicted", "inconclusive", "not run", "not testable"]


class ClaimsError(CurvatureError):
    """A claims file that does not follow the schema; the message names the file, the claim and the field."""


class Model(BaseModel):
    """Base of the schema: unknown fields are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Paper(Model):
    """Bibliographic data."""

    title: str
    authors: str
    venue: str
    year: int
    arxiv: str | None = None
    code: str | None = None


class Reported(Model):
    """What the paper reports.

    ``confirmed`` is false for figures that could not be checked against the paper; they are shown as such.
    """

    text: str
    setting: str | None = None
    confirmed: bool = True


class Decision(Model):
    """Common to all kinds. ``informative`` parts are shown but do not enter the verdict."""

    name: str | None = None
    informative: bool = False

    def expressions(self) -> list[Expression]:
        """Every expression of the decision."""
        return []

    @property
    def arms(self) -> list[str]:
        """Arms the decision needs."""
        return list(dict.fromkeys(arm for expression in self.expressions() for arm in expression.arms))


class Greater(Decision):
    """Paired by seed: the mean of ``metric`` of ``better`` minus that of ``worse`` exceeds ``margin``.

    With ``statistic: ratio`` the comparison is of the mean log ratio with log(margin), and the effect is a ratio.
    """

    kind: Literal["greater"]
    metric: str
    better: str
    worse: str
    margin: float | None = None
    statistic: Literal["difference", "ratio"] = "difference"

    def expressions(self) -> list[Expression]:
        better, worse = f"{self.metric}@{self.better}", f"{self.metric}@{self.worse}"
        return [Expression(f"log(({better}) / ({worse}))" if self.statistic == "ratio" else f"({better}) - ({worse})")]


class NotBelow(Decision):
    """Paired by seed: the mean of ``metric``, ``better`` minus ``worse``, is at least -``errors`` standard errors.

    A rule of estimates without an interval, so that it holds or does not.
    """

    kind: Literal["not_below"]
    metric: str
    better: str
    worse: str
    errors: float = Field(1.0, ge=0)

    def expressions(self) -> list[Expression]:
        return [Expression(f"({self.metric}@{self.better}) - ({self.metric}@{self.worse})")]


class Tuned(Decision):
    """``not_below`` between two swept arms, each at the value that a search of its own chooses.

    The search is the lowest ``search`` of the claim's seeds: an arm's value is the one with the highest mean of
    ``metric`` on them. The other seeds decide. Both arms sweep as many values, so that neither is tuned more.
    """

    kind: Literal["tuned"]
    metric: str
    better: str
    worse: str
    search: int = Field(ge=1)
    errors: float = Field(1.0, ge=0)

    @property
    def arms(self) -> list[str]:
        return [self.better, self.worse]


class Positive(Decision):
    """Per seed, the mean of ``value`` (arithmetic over ``metric@arm``) exceeds ``margin``."""

    kind: Literal["positive"]
    value: str
    margin: float = 0.0

    def expressions(self) -> list[Expression]:
        return [Expression(self.value)]


class Bound(Decision):
    """``value`` <= ``at_most`` + ``tolerance`` in every run. Runs where ``where`` is not > 0 are not testable."""

    kind: Literal["bound"]
    value: str
    at_most: str | float
    tolerance: float = 0.0
    where: str | None = None

    def expressions(self) -> list[Expression]:
        return [Expression(text) for text in (self.value, self.at_most, self.where) if text is not None]


class Equal(Decision):
    """The mean of ``value`` lies within ``tolerance`` of ``target``, by an equivalence test (confidence interval)."""

    kind: Literal["equal", "table"]
    value: str
    target: float
    tolerance: float

    def expressions(self) -> list[Expression]:
        return [Expression(self.value)]


class Rate(Decision):
    """The log-log slope of ``metric`` over the swept values of ``arm`` lies in ``interval``."""

    kind: Literal["rate"]
    metric: str
    arm: str
    interval: tuple[float, float]

    @property
    def arms(self) -> list[str]:
        return [self.arm]


class Monotone(Decision):
    """Spearman's rank correlation of ``metric`` with the swept parameter of ``arm`` has the sign of ``direction``."""

    kind: Literal["monotone"]
    metric: str
    arm: str
    direction: Literal["increasing", "decreasing"]

    @property
    def arms(self) -> list[str]:
        return [self.arm]


class Best(Decision):
    """A search, restated: no other swept value of ``arm`` has a higher mean of ``metric`` than ``value``.

    Arms that use a searched value are checked by it: the search runs on seeds of its own (``seeds`` of the claim).
    """

    kind: Literal["best"]
    metric: str
    arm: str
    value: float

    @property
    def arms(self) -> list[str]:
        return [self.arm]


Kinds = Greater | NotBelow | Tuned | Positive | Bound | Equal | Rate | Monotone | Best
AnyDecision = Annotated[Kinds, Field(discriminator="kind")]


class Arm(Model):
    """Hydra overrides on top of the experiment; with ``sweep``, one run for each value of one key."""

    overrides: list[str] = []
    parameter: str | None = None
    values: list[float] = []

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return {"overrides": value} if isinstance(value, list) else value

    @model_validator(mode="after")
    def _sweep_is_whole(self) -> Self:
        if (self.parameter is None) != (not self.values):
            raise ValueError("a swept arm has both parameter and values")
        return self


class Claim(Model):
    """One claim; every part of ``decide`` that is not informative must hold.

    ``requires`` lists arithmetic over ``metric@arm`` that must be > 0 in every seed, e.g. that the arms have converged;
    without it the claim is not testable. ``data`` names the folder under ``data_root`` that its runs need.
    """

    id: str
    statement: str
    source: str
    reported: Reported
    decide: list[AnyDecision] = []
    not_runnable: str | None = None
    requires: list[str] = []
    data: str | None = None
    seeds: list[int] | None = None
    expected: Verdict | None = None
    note: str | None = None
    explanation: str | None = None

    @field_validator("decide", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _decidable_or_reason(self) -> Self:
        for part in self.decide:
            part.expressions()
        if not self.decide and not self.not_runnable:
            raise ValueError("give either decide or not_runnable (why it cannot be run)")
        decided = {arm for part in self.decide for arm in part.arms}
        if unknown := {arm for text in self.requires for arm in Expression(text).arms} - decided:
            raise ValueError(f"requires names arms that decide does not: {sorted(unknown)}")
        if self.decide and all(part.informative for part in self.decide):
            raise ValueError("decide needs a part that is not informative")
        return self


class Claims(Model):
    """A whole file. ``arms`` are shared by the claims; an arm that no claim uses is an error."""

    paper: Paper
    scale: Literal["desk", "lab", "paper"] = "desk"
    seeds: list[int]
    arms: dict[str, Arm]
    claims: list[Claim]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        ids = [claim.id for claim in self.claims]
        if len(set(ids)) < len(ids):
            raise ValueError(f"claim ids repeat: {sorted({name for name in ids if ids.count(name) > 1})}")
        used: set[str] = set()
        for claim in self.claims:
            for part in claim.decide:
                for arm in part.arms:
                    if arm not in self.arms:
                        hint = near_matches(arm, self.arms)
                        raise ValueError(f"claim {claim.id}: unknown arm {arm!r}; known: {hint or list(self.arms)}")
                    swept = self.arms[arm].parameter is not None
                    if isinstance(part, Best) and swept and part.value not in self.arms[arm].values:
                        raise ValueError(f"claim {claim.id}: {part.value:g} is not among the values of arm {arm!r}")
                    if swept != isinstance(part, Rate | Monotone | Best | Tuned):
                        raise ValueError(f"claim {claim.id}: arm {arm!r} is {'' if swept else 'not '}swept")
                used |= set(part.arms)
                if isinstance(part, Tuned):
                    self._check_tuned(claim, part)
        if idle := sorted(set(self.arms) - used):
            raise ValueError(f"arms that no claim uses: {idle}")
        return self

    def _check_tuned(self, claim: Claim, part: Tuned) -> None:
        sizes = {arm: len(self.arms[arm].values) for arm in part.arms}
        if len(set(sizes.values())) > 1:
            raise ValueError(f"claim {claim.id}: arms that are tuned alike sweep as many values, not {sizes}")
        if part.search >= len(seeds := claim.seeds or self.seeds):
            raise ValueError(f"claim {claim.id}: search={part.search} leaves none of {len(seeds)} seeds to decide")

    def select(self, wanted: list[str] | None) -> list[Claim]:
        """The claims named in ``wanted``, or all.

        Raises:
            ClaimsError: an unknown id.
        """
        known = {claim.id: claim for claim in self.claims}
        for name in wanted or []:
            if name not in known:
                raise ClaimsError(f"claim={name!r} is unknown; {near_matches(name, known) or list(known)} exist")
        return [known[name] for name in wanted] if wanted else self.claims


def load(path: Path) -> Claims:
    """Read and validate a claims file with safe YAML.

    Raises:
        ClaimsError: naming the file, the claim and the field.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ClaimsError(f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ClaimsError(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ClaimsError(f"{path}: not YAML: {error}") from None
    try:
        return Claims.model_validate(content)
    except ValidationError as error:
        raise ClaimsError(f"{path}: {_explain(error, content)}") from None


def _explain(error: ValidationError, content: Any) -> str:
    lines = []
    for item in error.errors():
        where = [str(part) for part in item["loc"]]
        if len(where) >= 2 and where[0] == "claims":
            where[:2] = [f"claim {_claim_id(content, int(where[1]))}"]
        message = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            matches = near_matches(where[-1], _field_names())
            message = "unknown field" + (f"; did you mean {', '.join(matches)}?" if matches else "")
        lines.append(f"{'.'.join(where) or 'file'}: {message}")
    return "; ".join(lines)


def _claim_id(content: Any, index: int) -> str:
    try:
        return str(content["claims"][index]["id"])
    except (KeyError, TypeError, IndexError):
        return f"number {index + 1}"


def _field_names() -> list[str]:
    models = (Paper, Reported, Arm, Claim, Claims, *get_args(Kinds))
    return sorted({name for model in models for name in model.model_fields})
