"""The message that nudges the executor. It carries ids only; the run's row says what is to be done."""

import json
import re
from dataclasses import asdict, dataclass

from shared.domain.errors import InvalidInput

VERSION = 1
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def is_uuid(value: object) -> bool:
    """Whether it is a UUID as PostgreSQL writes it: lower case, with dashes."""
    return isinstance(value, str) and _UUID.fullmatch(value) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMessage:
    """`seq` is the step it asks for: once that step is done, the message is stale and changes nothing."""

    task_id: int
    run_id: str
    seq: int
    user_id: str  # the queue's message group: one user's many tasks do not delay another's
    trace_id: str | None = None
    replay: bool = False  # asks for a run that was given up to be done again

    def body(self) -> str:
        told = asdict(self)
        if not self.replay:
            del told["replay"]
        return json.dumps({"v": VERSION, **told}, separators=(",", ":"))

    @classmethod
    def parse(cls, body: str) -> "RunMessage":
        """Raises InvalidInput for anything that this version does not understand."""
        try:
            data = json.loads(body)
            version, task_id, run_id, seq, user_id = (data[k] for k in ("v", "task_id", "run_id", "seq", "user_id"))
            trace_id, replay = data.get("trace_id"), data.get("replay", False)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidInput("The message is not a run message.") from error
        sound = (
            version == VERSION
            and type(task_id) is int
            and type(seq) is int
            and is_uuid(run_id)
            and is_uuid(user_id)
            and (trace_id is None or isinstance(trace_id, str))
            and isinstance(replay, bool)
        )
        if not sound:
            raise InvalidInput("The message is not a run message.")
        return cls(task_id=task_id, run_id=run_id, seq=seq, user_id=user_id, trace_id=trace_id, replay=replay)
