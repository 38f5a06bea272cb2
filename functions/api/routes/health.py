"""Is anybody there?"""

import time

from fastapi import APIRouter

from functions.api import examples
from functions.api.answers import Answer

router = APIRouter(tags=["health"])


@router.get("/", responses=examples.of(examples.WELCOME))
def welcome() -> Answer:
    """What this is."""
    return Answer(examples.WELCOME)


@router.get("/ping", responses=examples.of(examples.PONG))
def ping() -> Answer:
    """Answers while the API runs; looks at nothing else. `timestamp` is seconds since 1970."""
    return Answer({"status": "success", "message": "pong", "timestamp": time.time()})
