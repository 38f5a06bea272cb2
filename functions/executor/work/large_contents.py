"""Contents that are too large for the result: brought from the sandbox into the database before the run ends."""

from collections.abc import Iterable, Iterator, Sequence

from functions.executor.context import StepContext
from functions.executor.step_secrets import StepSecrets
from functions.executor.work.jobs import RunFolder
from sandbox.programs.protocol import Content
from shared.domain.contents import ContentPart, is_named, parts_of, together
from shared.domain.errors import RunFailed

FOLDER = "contents"
BUDGET_S = 40  # of a step, which has 120: a file of the sandbox that was begun is stored to its end

Pack = Sequence[Content]  # the contents in one of collect.py's files


def stored(ctx: StepContext, packs: Sequence[Pack], folder: RunFolder) -> bool:
    """Store what is not stored yet. True when complete; False when the time budget ran out or the fence was lost.

    The run's secrets are taken out. Raises RunFailed, Unavailable.
    """
    known = ctx.ports.runs.stored_contents(ctx.run) if packs else set()
    began = ctx.ports.now()
    for number, pack in enumerate(packs):
        if known.issuperset(content.id for content in pack):
            continue
        if (ctx.ports.now() - began).total_seconds() > BUDGET_S:
            return False
        parts = _parts(folder.read(FOLDER, str(number)), pack, ctx.secrets)
        if not all(ctx.ports.runs.store_contents(ctx.run, some) for some in together(parts)):
            return False
    return True


def _parts(raw: bytes, pack: Pack, secrets: StepSecrets) -> Iterator[ContentPart]:
    for content_id, data in _separate(raw, pack):
        if not is_named(data, content_id):
            raise RunFailed("The result was changed while it was read.", error_code="collect_failed")
        yield from parts_of(content_id, secrets.scrub_bytes(data))


def _separate(raw: bytes, pack: Pack) -> Iterable[tuple[str, bytes]]:
    at = 0
    for content in pack:
        yield content.id, raw[at : at + content.size]
        at += content.size
