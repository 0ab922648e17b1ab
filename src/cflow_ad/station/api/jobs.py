"""Training jobs, and the folders that an engineer may train on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi import Path as InPath
from pydantic import Field, model_validator

from cflow_ad.data.listing import IMAGE_SUFFIXES
from cflow_ad.station.api.common import ERRORS, Body, Engineer, Here, Name, Operator, Plain, Time
from cflow_ad.station.refusal import Refusal
from cflow_ad.station.station import Station

router = APIRouter(prefix="/v1", tags=["training"], responses=ERRORS)

Job = Annotated[str, InPath(max_length=36, description="A job's id."), Plain]
Folder = Annotated[str, Field(max_length=1000), Plain]
_Time = Annotated[str | None, Field(max_length=40), Time]


class HistoryIn(Body):
    """Parts of the record that are marked good."""

    since: _Time = None
    until: _Time = None
    limit: Annotated[int, Field(ge=4, le=20_000)] = 1000


class JobIn(Body):
    """A training job: on a folder, or on parts of the record."""

    model: Name
    folder: Folder | None = None
    history: HistoryIn | None = None
    preset: Literal["fast", "default", "accurate"] = "default"
    size: Annotated[str, Field(pattern=r"^\d{2,4}(x\d{2,4})?$")] | None = None
    steps: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    false_alarm_rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    max_seconds: Annotated[float, Field(gt=0, le=604_800)] | None = None

    @model_validator(mode="after")
    def _check(self) -> JobIn:
        if (self.folder is None) == (self.history is None):
            raise ValueError("give a folder, or history, not both")
        return self


@router.get("/folders", summary="Folders to train on")
def list_folders(
    station: Here,
    user: Engineer,
    path: Annotated[str | None, Query(max_length=1000), Plain] = None,
) -> dict[str, Any]:
    """List the folders in one of the allowed roots, or the roots."""
    roots = [str(root.resolve()) for root in station.config.roots]
    if path is None:
        return {"path": None, "roots": roots, "folders": [_describe(Path(r)) for r in roots]}
    folder = _allowed(station, path)
    inside = sorted(each for each in folder.iterdir() if each.is_dir())
    return {"path": str(folder), "roots": roots, "folders": [_describe(each) for each in inside]}


@router.post("/jobs", summary="Begin a training", status_code=201)
def begin(station: Here, user: Engineer, body: JobIn) -> dict[str, Any]:
    """Train a new version of a model in a process of its own; it is not put to use by itself."""
    return station.jobs.begin(
        body.model,
        user.name,
        images=None if body.folder is None else _allowed(station, body.folder),
        history=None if body.history is None else body.history.model_dump(),
        preset=body.preset,
        settings=body.model_dump(include={"size", "steps", "false_alarm_rate"}, exclude_none=True),
        max_seconds=body.max_seconds,
    )


@router.get("/jobs", summary="List the jobs, newest first")
def list_jobs(station: Here, user: Operator) -> dict[str, Any]:
    """List the jobs."""
    return {"items": station.jobs.all(), "next": None}


@router.get("/jobs/{job}", summary="One job")
def get_job(station: Here, user: Operator, job: Job) -> dict[str, Any]:
    """Return a job with its progress."""
    try:
        return station.jobs.get(job)
    except KeyError:
        raise _unknown(job) from None


@router.post("/jobs/{job}/cancel", summary="Cancel a job")
def cancel(station: Here, user: Engineer, job: Job) -> dict[str, Any]:
    """Ask a job to end."""
    try:
        return station.jobs.cancel(job)
    except KeyError:
        raise _unknown(job) from None


@router.get("/jobs/{job}/comparison", summary="The new model beside the old one")
def compare(station: Here, user: Operator, job: Job) -> dict[str, Any]:
    """Compare the job's model with the one in use, on the parts that people have marked."""
    try:
        return station.jobs.comparison(job)
    except KeyError:
        raise Refusal(404, f"there is no finished job {job}", code="job.unfinished") from None


def _unknown(job: str) -> Refusal:
    return Refusal(404, f"there is no job {job}", code="job.unknown")


def _allowed(station: Station, text: str) -> Path:
    """Return a folder that lies in one of the roots, after links are followed."""
    folder = Path(text).resolve()
    roots = [root.resolve() for root in station.config.roots]
    if not any(folder.is_relative_to(root) for root in roots) or not folder.is_dir():
        raise Refusal(
            422,
            f"{text}: not a folder under the allowed roots (`roots` in the configuration)",
            code="folder.other",
            folder=text,
        )
    return folder


def _describe(folder: Path) -> dict[str, Any]:
    try:
        count = sum(each.suffix.lower() in IMAGE_SUFFIXES for each in folder.iterdir())
    except OSError:
        count = 0
    return {"name": folder.name, "path": str(folder), "images": count}
