"""Arithmetic over metrics of arms, e.g. ``test/accuracy@sam - test/accuracy@base``; nothing is ever executed."""

import ast
import math
import operator
import re
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

TOKEN = re.compile(r"(?P<metric>[A-Za-z_][\w./]*)@(?P<arm>[A-Za-z_][\w.\-]*)")
BINARY: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
FUNCTIONS: dict[str, Callable[[float], float]] = {"log": math.log, "exp": math.exp, "abs": abs, "sqrt": math.sqrt}


class Expression:
    """A number, or arithmetic (+ - * / **, log, exp, abs, sqrt) over terms ``metric@arm``.

    An arm's name ends at a space or bracket; minus signs around terms need spaces.

    Raises:
        ValueError: the text is anything else.
    """

    def __init__(self, text: str | float) -> None:
        self.text = str(text)
        self.terms: list[tuple[str, str]] = []

        def name(match: re.Match[str]) -> str:
            term = match["metric"], match["arm"]
            if term not in self.terms:
                self.terms.append(term)
            return f"_{self.terms.index(term)}"

        source = TOKEN.sub(name, self.text)
        try:
            self._tree = ast.parse(source, mode="eval").body
            self._evaluate(self._tree, [1.0] * len(self.terms))
        except (SyntaxError, TypeError, KeyError, IndexError) as error:
            raise ValueError(f"{self.text!r} is not arithmetic over terms like test/accuracy@arm") from error
        except (ArithmeticError, ValueError):
            pass

    @cached_property
    def arms(self) -> list[str]:
        """Names of the arms, in order of appearance."""
        return list(dict.fromkeys(arm for _, arm in self.terms))

    def __call__(self, metrics: Mapping[str, Mapping[str, float]]) -> float:
        """Value for ``metrics[arm][metric]``; KeyError names a metric that is missing, nan if arithmetic fails."""
        values = []
        for metric, arm in self.terms:
            if metric not in metrics[arm]:
                raise KeyError(f"{metric} of arm {arm}")
            values.append(metrics[arm][metric])
        try:
            return float(self._evaluate(self._tree, values))
        except (ArithmeticError, ValueError):
            return math.nan

    def _evaluate(self, node: ast.expr, values: list[float]) -> Any:
        match node:
            case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
                return value
            case ast.Name(id=identifier) if re.fullmatch(r"_\d+", identifier):
                return values[int(identifier[1:])]
            case ast.BinOp(left=left, op=op, right=right):
                return BINARY[type(op)](self._evaluate(left, values), self._evaluate(right, values))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -self._evaluate(operand, values)
            case ast.Call(func=ast.Name(id=function), args=[argument], keywords=[]):
                return FUNCTIONS[function](self._evaluate(argument, values))
        raise TypeError(ast.dump(node))
