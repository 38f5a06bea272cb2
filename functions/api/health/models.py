"""Response bodies of the health operations."""

from typing import Literal

from pydantic import BaseModel, Field

# As the old backend listed them: without the prefix /api that most of them have.
ENDPOINTS = ["/ping", "/start-task", "/task-status", "/git-diff", "/create-pr"]


class GetApiInfoResponse(BaseModel):
    """The name and the main endpoints of the API."""

    status: Literal["success"]
    message: str = Field(examples=["Claude Code Automation API"])
    endpoints: list[str] = Field(examples=[ENDPOINTS])


class PingResponse(BaseModel):
    """The API is running. `timestamp` is in seconds since 1970."""

    status: Literal["success"]
    message: Literal["pong"]
    timestamp: float = Field(examples=[1795424400.25])
