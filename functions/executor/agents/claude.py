"""Claude Code: `claude -p` and its stream of JSON lines (2.1.330, November 2026)."""

from collections.abc import Iterator
from dataclasses import replace

from functions.executor.agents.driver import AgentCommand, AgentDriver, AgentFailure, AgentResult, ReaderState
from functions.executor.agents.failures import classify
from functions.executor.agents.output_lines import (
    MESSAGE_CHARS,
    TITLE_CHARS,
    Json,
    clip_json,
    first_line,
    items,
    number,
    obj,
    read_objects,
    text,
)
from functions.executor.agents.prices import NO_TOKENS, cost_usd
from functions.executor.agents.sessions import session_id, since
from sandbox.programs.protocol import UsageLog
from shared.domain.agents.claude import PROFILE
from shared.domain.preferences import NO_PREFERENCES, AgentPreferences
from shared.domain.run import Event
from shared.domain.secret import Secret
from shared.domain.usage import TOKENS

ARGV = ("claude", "-p", "--output-format=stream-json", "--verbose", "--dangerously-skip-permissions")
# What the result line calls a limit of ours, and what an error message calls its cause
SUBTYPES = {"error_max_turns": AgentFailure.MAX_TURNS, "error_max_budget_usd": AgentFailure.BUDGET_EXCEEDED}
# Our names of tokens, and theirs: in a message's `usage`, and per model in the result
IN_USAGE = dict(
    zip(
        TOKENS,
        ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens"),
        strict=True,
    )
)
IN_MODEL_USAGE = dict(
    zip(TOKENS, ("inputTokens", "cacheReadInputTokens", "cacheCreationInputTokens", "outputTokens"), strict=True)
)
CHARS_PER_TOKEN = 4  # of English and code, as a rule of thumb
MESSAGES_AT_ONCE = 20  # helpers work side by side, so the lines of their messages are mixed
# Tool -> what it does, and the part of its input that says to what
TITLES = {
    "Bash": ("$", "command"),
    "Read": ("Read", "file_path"),
    "Write": ("Write", "file_path"),
    "Edit": ("Edit", "file_path"),
    "MultiEdit": ("Edit", "file_path"),
    "NotebookEdit": ("Edit", "notebook_path"),
    "Glob": ("Find", "pattern"),
    "Grep": ("Search", "pattern"),
    "WebFetch": ("Fetch", "url"),
    "WebSearch": ("Search the web:", "query"),
    "Agent": ("Ask a helper:", "description"),
    "Task": ("Ask a helper:", "description"),
    "Skill": ("Use the skill", "skill"),
}


class Claude:
    def command(
        self,
        *,
        model: str | None = None,
        base_url: str | None = None,
        max_turns: int | None = None,
        max_cost_usd: float | None = None,
        resume: str | None = None,
        preferences: AgentPreferences = NO_PREFERENCES,
    ) -> AgentCommand:
        """`base_url` has no /v1. `max_cost_usd` counts this run only, also when it resumes a session."""
        argv = list(ARGV)
        if model:
            argv.append(f"--model={model}")
        if max_turns is not None:
            argv.append(f"--max-turns={max_turns}")
        if max_cost_usd is not None:
            argv.append(f"--max-budget-usd={max_cost_usd:f}")
        if resume:
            argv.append(f"--resume={resume}")
        address = {PROFILE.base_url_variable: base_url} if base_url else {}
        return AgentCommand(
            argv=tuple(argv),
            env={**PROFILE.env, **address},
            secret_env=(PROFILE.program_key_variable,),
            own_env=preferences.env,
            home_files=_login(preferences),
        )

    def read(self, chunk: bytes, state: ReaderState) -> tuple[list[Event], ReaderState]:
        return read_objects(chunk, state, _on_object)

    def usage_log(self, state: ReaderState) -> UsageLog | None:  # noqa: ARG002 - each message in its output counts
        return None

    def read_usage_line(self, line: str, state: ReaderState) -> ReaderState:  # noqa: ARG002
        return state


DRIVER: AgentDriver = Claude()


def _login(preferences: AgentPreferences) -> dict[str, Secret]:
    if PROFILE.credentials_file is None or preferences.credentials is None:
        return {}
    return {PROFILE.credentials_file: preferences.credentials}


def _on_object(line: Json, state: ReaderState) -> tuple[list[Event], ReaderState]:
    match line.get("type"):
        case "system":
            return _on_system(line, state)
        case "assistant":
            return _on_assistant(line, state)
        case "user":
            return list(_tool_results(line)), state
        case "result":
            return _on_result(line, state)
        case _:
            return [], state


def _on_system(line: Json, state: ReaderState) -> tuple[list[Event], ReaderState]:
    match line.get("subtype"):
        case "init" if (found := session_id(line.get("session_id"))) and found != state.session_id:
            model, version = text(line.get("model"), TITLE_CHARS), text(line.get("claude_code_version"), TITLE_CHARS)
            state = replace(state, session_id=found, model=model or state.model, cli_version=version or None)
            payload = {"session_id": found, "model": state.model, "cli_version": state.cli_version}
            return [Event("session", payload)], state
        case "api_retry":
            return [Event("warning", {"text": _retry_text(line)})], state
        case "permission_denied":
            return [Event("warning", {"text": text(line.get("message")) or "A tool was not permitted."})], state
        case _:
            return [], state


def _retry_text(line: Json) -> str:
    said = ": ".join(filter(None, [str(number(line.get("error_status")) or ""), text(line.get("error"), 200)]))
    attempt, of = number(line.get("attempt")), number(line.get("max_retries"))
    return f"The model's API did not answer ({said or 'no connection'}). Trying again, {attempt} of {of}."


def _on_assistant(line: Json, state: ReaderState) -> tuple[list[Event], ReaderState]:
    """A line holds one content block or several. Errors of the API come as messages, too; the result repeats them."""
    blocks = items(obj(line.get("message")).get("content"))
    if line.get("is_api_error_message") or line.get("error"):
        said = " ".join(text(block.get("text")) for block in blocks)
        cause = text(line.get("error"), TITLE_CHARS).replace("_", " ")  # "billing_error", "rate_limit", …
        return [], replace(state, last_error=f"{said} ({cause})")
    state = _count(obj(line.get("message")), state)
    of_helper = line.get("parent_tool_use_id") is not None  # what it says comes back as its tool's result
    events = [event for block in blocks for event in _block_events(block, of_helper=of_helper)]
    texts = [event.payload["text"] for event in events if event.kind == "agent_message"]
    return events, replace(state, last_text=texts[-1]) if texts else state


def _count(message: Json, state: ReaderState) -> ReaderState:
    """The state with the message's tokens counted, once, though each of its lines repeats them.

    A line's output tokens are those from before the answer was written: what it holds is the better measure, until the
    result tells.
    """
    message_id, model = text(message.get("id"), TITLE_CHARS), text(message.get("model"), TITLE_CHARS)
    if not message_id or not obj(message.get("usage")):
        return state
    before = state.counted.get(message_id, {})
    written = before.get("written", 0) + _written(message)
    now = _tokens(obj(message.get("usage")), IN_USAGE)
    now["output_tokens"] = max(now["output_tokens"], written)
    new = {name: max(0, count - before.get(name, 0)) for name, count in now.items()}
    if not any(new.values()):
        return state
    others = {key: count for key, count in state.counted.items() if key != message_id}
    counted = dict([*others.items(), (message_id, now | {"written": written})][-MESSAGES_AT_ONCE:])
    state = replace(state.spent(new, cost_usd(model, new)), counted=counted)
    spent = {"cost_usd": state.cost_usd or 0.0, **state.usage}
    return replace(state, totals={key: state.totals_before.get(key, 0) + total for key, total in spent.items()})


def _written(message: Json) -> int:
    """About how many tokens the blocks of one line are."""
    chars = 0
    for block in items(message.get("content")):
        said = (block.get("text"), block.get("thinking"), *obj(block.get("input")).values())
        chars += sum(len(each) for each in said if isinstance(each, str))
    return chars // CHARS_PER_TOKEN


def _tokens(counts: Json, names: dict[str, str]) -> dict[str, int]:
    return {ours: max(0, number(counts.get(theirs)) or 0) for ours, theirs in names.items()}


def _block_events(block: Json, *, of_helper: bool) -> Iterator[Event]:
    match block.get("type"):
        case "text" if not of_helper and (said := text(block.get("text"), MESSAGE_CHARS)).strip():
            yield Event("agent_message", {"text": said})
        case "thinking" if not of_helper and (thought := text(block.get("thinking"))).strip():
            yield Event("thinking", {"text": thought})
        case "tool_use":
            name = text(block.get("name"), TITLE_CHARS)
            given = obj(block.get("input"))
            payload = {"id": text(block.get("id"), TITLE_CHARS), "name": name, "input": clip_json(given)}
            yield Event("tool_use", payload | {"title": _title(name, given)})


def _title(name: str, given: Json) -> str:
    verb, key = TITLES.get(name, (name, ""))
    return first_line(f"{verb} {text(given.get(key), MESSAGE_CHARS)}")


def _tool_results(line: Json) -> Iterator[Event]:
    for block in items(obj(line.get("message")).get("content")):
        if block.get("type") == "tool_result":
            payload = {"id": text(block.get("tool_use_id"), TITLE_CHARS), "ok": block.get("is_error") is not True}
            yield Event("tool_result", payload | {"output": _output(block.get("content"))})


def _output(content: object) -> str:
    """A tool answers with a text, or with blocks of texts and images."""
    if isinstance(content, str):
        return text(content)
    return text("\n".join(text(part.get("text")) or f"[{text(part.get('type'), 20)}]" for part in items(content)))


def _on_result(line: Json, state: ReaderState) -> tuple[list[Event], ReaderState]:
    subtype, status = text(line.get("subtype"), TITLE_CHARS), number(line.get("api_error_status"))
    ok = line.get("is_error") is not True and status is None and not subtype.startswith("error")
    listed = line.get("errors")
    errors = "; ".join(text(each) for each in listed) if isinstance(listed, list) else ""
    said = text(line.get("result"), MESSAGE_CHARS) or errors or (state.last_text if ok else state.last_error)
    usage, tokens = _usage(line, state)
    cost, total = _cost(line, state)
    result = AgentResult(
        ok=ok,
        text=said,
        error_code=None if ok else SUBTYPES.get(subtype) or classify(f"{said} {state.last_error}", status),
        turns=number(line.get("num_turns")),
        usage=usage,
        cost_usd=cost,
        duration_ms=number(line.get("duration_ms")),
    )
    return replace(state, totals={**state.totals, **tokens, **total}).ended(result)


def _cost(line: Json, state: ReaderState) -> tuple[float | None, dict[str, float]]:
    """This run's cost, and the session's: `total_cost_usd` counts on when a session is resumed."""
    total = line.get("total_cost_usd")
    if not isinstance(total, int | float) or not 0 <= total < 1e9:
        return state.cost_usd, {}
    before = {key: spent for key, spent in state.totals_before.items() if key == "cost_usd"}
    totals = {"cost_usd": float(total)}
    return round(since(before, totals)["cost_usd"], 6), totals


def _usage(line: Json, state: ReaderState) -> tuple[dict[str, int], dict[str, float]]:
    """This run's tokens, and the session's. `modelUsage` counts on, like the cost; `usage` knows no helpers."""
    models = [obj(usage) for usage in obj(line.get("modelUsage")).values()]
    if not models:
        told = _tokens(obj(line.get("usage")), IN_USAGE)
        return {name: max(count, state.usage.get(name, 0)) for name, count in told.items()}, {}
    totals = dict(NO_TOKENS)
    for model in models:
        for name, count in _tokens(model, IN_MODEL_USAGE).items():
            totals[name] += count
    before = {key: count for key, count in state.totals_before.items() if key in TOKENS}
    session = {name: float(count) for name, count in totals.items()}
    return {name: int(count) for name, count in since(before, session).items()}, session
