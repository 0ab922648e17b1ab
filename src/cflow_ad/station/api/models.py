"""Models, their versions and thresholds. Every change is a row with author and reason."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from cflow_ad.station.api.common import (
    ERRORS,
    LARGEST,
    Body,
    Engineer,
    Here,
    Model,
    Operator,
    Reason,
    example,
    known,
    tell,
)
from cflow_ad.station.api.examples import MODEL
from cflow_ad.station.describing import (
    describe_model,
    list_changes,
    list_thresholds,
    list_versions,
)
from cflow_ad.station.refusal import Refusal
from cflow_ad.station.thresholds import list_scores, preview_threshold, summarise_audit

router = APIRouter(prefix="/v1/models", tags=["models"], responses=ERRORS)

Parts = Annotated[int, Query(ge=1, le=20_000, description="How many of the last parts.")]
Score = Annotated[float, Field(ge=-1e9, le=1e9, allow_inf_nan=False)]


class ThresholdIn(Body):
    """A new threshold."""

    value: Score
    reason: Reason

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"value": 2.6, "reason": "audit of week 18"}]}
    )


class PromoteIn(Body):
    """A version to use from now on."""

    version: Annotated[int, Field(ge=0, le=LARGEST)]
    reason: Reason

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"version": 2, "reason": "trained on the new light"}]}
    )


class RuleIn(Body):
    """A rule such as 7 of the last 10."""

    anomalous: Annotated[int, Field(ge=1, le=1000)]
    of: Annotated[int, Field(ge=1, le=1000)]

    @model_validator(mode="after")
    def _check(self) -> RuleIn:
        if self.anomalous > self.of:
            raise PydanticCustomError("rule", "anomalous is more than of")
        return self


@router.get("", summary="List the models", responses=example({"items": [MODEL], "next": None}))
def get_models(station: Here, user: Operator) -> dict[str, Any]:
    """List the models."""
    return {
        "items": [describe_model(station, name) for name in station.registry.names()],
        "next": None,
    }


@router.get("/{model}", summary="One model", responses=example(MODEL))
def get_model(station: Here, user: Operator, model: Model) -> dict[str, Any]:
    """Describe a model."""
    return describe_model(station, known(station, model))


@router.get("/{model}/versions", summary="Its versions, newest first")
def get_versions(station: Here, user: Operator, model: Model) -> dict[str, Any]:
    """List the versions of a model."""
    return {"items": list_versions(station, known(station, model)), "next": None}


@router.get("/{model}/changes", summary="Which version was in use when")
def get_changes(station: Here, user: Operator, model: Model) -> dict[str, Any]:
    """List the changes of the version in use, newest first."""
    return {"items": list_changes(station, known(station, model)), "next": None}


@router.post("/{model}/promote", summary="Put a version to use")
def promote(station: Here, user: Engineer, model: Model, body: PromoteIn) -> dict[str, Any]:
    """Put another version to use: a new one, or an earlier one again."""
    name = known(station, model)
    try:
        station.registry.promote(name, body.version, user.name, body.reason)
    except KeyError:
        raise Refusal(
            404,
            f"{name} has no version {body.version}",
            code="model.no_version",
            model=name,
            version=str(body.version),
        ) from None
    found = describe_model(station, name)
    station.broadcast.send("model", found)
    return found


@router.get("/{model}/thresholds", summary="Its thresholds, newest first")
def get_thresholds(station: Here, user: Operator, model: Model) -> dict[str, Any]:
    """List the thresholds of all versions."""
    return {"items": list_thresholds(station, known(station, model)), "next": None}


@router.post("/{model}/thresholds", summary="Change the threshold")
def set_threshold(station: Here, user: Engineer, model: Model, body: ThresholdIn) -> dict[str, Any]:
    """Change the threshold of the version in use."""
    name = known(station, model)
    station.registry.set_threshold(name, body.value, user.name, body.reason)
    found = describe_model(station, name)
    station.broadcast.send("threshold", found)
    return found


@router.get("/{model}/thresholds/preview", summary="What another threshold would do")
def preview(
    station: Here,
    user: Operator,
    model: Model,
    value: Annotated[float, Query(ge=-1e9, le=1e9, allow_inf_nan=False)],
    parts: Parts = 2000,
    show: Annotated[int, Query(ge=0, le=200)] = 24,
) -> dict[str, Any]:
    """Say which recorded verdicts would change, and what the blind audit says of the rates."""
    found = preview_threshold(station, known(station, model), value, parts=parts, show=show)
    tell(station, user, *found["items"])
    return found


@router.get("/{model}/scores", summary="Scores of calibration and of the last parts")
def get_scores(station: Here, user: Operator, model: Model, parts: Parts = 2000) -> dict[str, Any]:
    """List scores, for a histogram."""
    return list_scores(station, known(station, model), parts)


@router.get("/{model}/audit", summary="What the blind audit found")
def get_audit(station: Here, user: Operator, model: Model) -> dict[str, Any]:
    """Return intervals of false alarms and escapes that hold however often one looks."""
    return summarise_audit(station, known(station, model))


@router.put("/{model}/rule", summary="Set a rule such as 7 of the last 10")
def set_rule(
    station: Here, user: Engineer, model: Model, body: RuleIn | None = None
) -> dict[str, Any]:
    """Set when a run of anomalous parts raises an event; null for never."""
    name = known(station, model)
    station.set_rule(name, None if body is None else body.model_dump())
    found = describe_model(station, name)
    station.broadcast.send("rule", found)
    return found
