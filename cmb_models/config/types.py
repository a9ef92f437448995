"""Types for the sections of params.yaml: numbers with ranges, a base class that rejects unknown keys, and error messages."""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Steps = Annotated[int, Field(ge=4)]  # the last quarter of them is averaged
Levels = Annotated[int, Field(ge=0)]
Number = TypeVar("Number", bound=float)


def _low_to_high(pair: tuple[Number, Number]) -> tuple[Number, Number]:
    if pair[0] > pair[1]:
        raise ValueError("the first value must not be above the second")
    return pair


Range = Annotated[tuple[Positive, Positive], AfterValidator(_low_to_high)]
FractionRange = Annotated[tuple[Fraction, Fraction], AfterValidator(_low_to_high)]
LevelRange = Annotated[tuple[Levels, Levels], AfterValidator(_low_to_high)]
Size = tuple[Count, Count, Count]


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys, NaN and infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class Promotion(Section):
    """Who may promote. approver_differs: the user who registered a release cannot promote it."""

    approver_differs: bool = False


def explain(error: ValidationError) -> str:
    """The faults of a ValidationError in one line: key, what is wrong, value."""
    parts = []
    for fault in error.errors():
        key = ".".join(str(p) for p in fault["loc"]) or "params.yaml"
        if fault["type"] == "extra_forbidden":
            parts.append(f"{key} is not a known key")
        elif fault["type"] == "missing":
            parts.append(f"{key} is missing")
        else:
            value = "" if isinstance(fault["input"], dict | BaseModel) else f" (got {fault['input']!r})"
            parts.append(f"{key}: {fault['msg'].removeprefix('Value error, ')}{value}")
    return "; ".join(parts)
