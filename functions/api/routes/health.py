"""Is anybody there?"""

import time
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from functions.api.answers import Answer
from functions.api.openapi import answers

router = APIRouter(tags=["health"])

# As the old backend said it: without the prefix /api that most of these have.
ENDPOINTS = ["/ping", "/start-task", "/task-status", "/git-diff", "/create-pr"]


class Welcome(BaseModel):
    """What this is."""

    status: Literal["success"]
    message: str = Field(examples=["Claude Code Automation API"])
    endpoints: list[str] = Field(examples=[ENDPOINTS])


class Pong(BaseModel):
    """The API runs. `timestamp` is seconds since 1970."""

    status: Literal["success"]
    message: Literal["pong"]
    timestamp: float = Field(examples=[1795424400.25])


@router.get("/", operation_id="welcome", responses=answers(Welcome))
def welcome() -> Answer:
    """Name the API. For whoever opens its address."""
    return Answer({"status": "success", "message": "Claude Code Automation API", "endpoints": ENDPOINTS})


@router.get("/ping", operation_id="ping", responses=answers(Pong))
def ping() -> Answer:
    """Answer while the API runs. Nothing else is looked at."""
    return Answer({"status": "success", "message": "pong", "timestamp": time.time()})
