"""What the old backend had and a client may still ask for."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from functions.api.answers import Answer
from functions.api.deps import CurrentUser
from functions.api.openapi import answers

router = APIRouter(prefix="/api", tags=["tasks"])


class NothingToMigrate(BaseModel):
    """There is never anything to migrate."""

    status: Literal["success"]
    message: Literal["No legacy tasks file found"]
    migrated: Literal[0]


@router.post("/migrate-legacy-tasks", operation_id="migrateLegacyTasks", responses=answers(NothingToMigrate, 401, 503))
def migrate_legacy_tasks(_: CurrentUser) -> Answer:
    """Migrate nothing. The old backend read tasks from a file of its server; there is no such file here."""
    return Answer({"status": "success", "message": "No legacy tasks file found", "migrated": 0})
