"""OpenAI Codex: `codex exec --json` and its stream of JSON lines (0.163.0, November 2026)."""

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import replace

from functions.executor.agents.driver import AgentCommand, AgentDriver, AgentResult, ReaderState
from functions.executor.agents.failures import classify
from functions.executor.agents.output_lines import (
    MESSAGE_CHARS,
    TITLE_CHARS,
    Json,
    clip,
    clip_json,
    first_line,
    items,
    number,
    obj,
    read_objects,
    text,
)
from functions.executor.agents.prices import cost_usd
from functions.executor.agents.sessions import session_id, since
from sandbox.programs.protocol import UsageLog
from shared.domain.agents.codex import PROFILE
from shared.domain.preferences import NO_PREFERENCES, AgentPreferences
from shared.domain.run import Event
from shared.domain.secret import Secret

KEY = PROFILE.program_key_variable
ARGV = (
    "codex",
    "exec",
    "--json",
    "--skip-git-repo-check",
    "--dangerously-bypass-approvals-and-sandbox",  # the E2B sandbox is the sandbox
    "--config=analytics.enabled=false",
    f'--config=shell_environment_policy.exclude=["{KEY}"]',  # commands of the agent do not get the key
)
(GATEWAY_FILE,) = PROFILE.other_secret_files  # a layer over its config.toml
GATEWAY = GATEWAY_FILE.removeprefix(".codex/").removesuffix(".config.toml")
_URL = re.compile(r",? url: [^\s)]+")  # the address of our gateway tells a person nothing
CHANGES = {"add": "Write", "update": "Edit", "delete": "Delete"}


class Codex:
    def command(
        self,
        *,
        model: str | None = None,
        base_url: str | None = None,
        max_turns: int | None = None,  # noqa: ARG002 - codex has no such limit
        max_cost_usd: float | None = None,  # noqa: ARG002 - nor this one
        resume: str | None = None,
        preferences: AgentPreferences = NO_PREFERENCES,
    ) -> AgentCommand:
        """`base_url` includes /v1. Codex knows no limits of turns or cost: those two change nothing."""
        argv = list(ARGV)
        if model:
            argv.append(f"--model={model}")
        if base_url:
            argv += [f"--config={setting}" for setting in _provider(base_url)]
        home_files = _own_gateway(preferences)
        if home_files:
            argv.append(f"--profile={GATEWAY}")
        if resume:
            argv += ["resume", resume]
        own_env = _with_own_key(preferences.env)
        return AgentCommand(argv=(*argv, "-"), env={}, secret_env=(KEY,), own_env=own_env, home_files=home_files)

    def read(self, chunk: bytes, state: ReaderState) -> tuple[list[Event], ReaderState]:
        return read_objects(chunk, state, _on_object)

    def usage_log(self, state: ReaderState) -> UsageLog | None:
        """The rollout of its session: `exec` itself prints no usage before the end of its turn."""
        if state.session_id is None:
            return None
        return UsageLog(f".codex/sessions/*/*/*/rollout-*-{state.session_id}.jsonl", '"token_count"')

    def read_usage_line(self, line: str, state: ReaderState) -> ReaderState:
        try:
            payload = obj(obj(json.loads(line)).get("payload"))
        except (ValueError, RecursionError):
            return state
        total = obj(obj(payload.get("info")).get("total_token_usage"))
        if payload.get("type") != "token_count" or not total or state.result:
            return state
        return _with_totals(total, state)


DRIVER: AgentDriver = Codex()


def _provider(base_url: str) -> list[str]:
    """A provider of our own: the built-in one first tries WebSockets at another address, for seconds."""
    settings = {"name": "Gateway", "base_url": base_url, "wire_api": "responses", "env_key": KEY}
    inline = ", ".join(f"{key} = {_toml(value)}" for key, value in settings.items())
    return ['model_provider="gateway"', f"model_providers.gateway={{{inline}}}"]


def _toml(text: str) -> str:
    """A text in TOML: as in JSON, where that needs no pairs of surrogates; DEL must not stand for itself."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _own_gateway(preferences: AgentPreferences) -> dict[str, Secret]:
    """The user's OPENAI_BASE_URL, which `codex exec` does not read, as a profile: an address may hold a secret."""
    address = preferences.env.get(PROFILE.base_url_variable)
    if address is None:
        return {}
    return {GATEWAY_FILE: Secret("\n".join(_provider(address.reveal())))}


def _with_own_key(env: Mapping[str, Secret]) -> Mapping[str, Secret]:
    """The user's OPENAI_API_KEY also under the name that `codex exec` reads, unless something stands there."""
    key = env.get(PROFILE.key_variable)
    return {KEY: key, **env} if key else env


def _on_object(line: Json, state: ReaderState) -> tuple[list[Event], ReaderState]:
    match line.get("type"):
        case "thread.started":
            return _on_thread(line, state)
        case "item.started" | "item.updated":
            return _on_item(obj(line.get("item")), state, completed=False)
        case "item.completed":
            return _on_item(obj(line.get("item")), state, completed=True)
        case "turn.completed":
            return _on_completed(line, state)
        case "turn.failed":
            return _on_failed(_message(obj(line.get("error"))), state)
        case "error":
            return _on_error(_message(line), state)
        case _:
            return [], state


def _on_thread(line: Json, state: ReaderState) -> tuple[list[Event], ReaderState]:
    if not (found := session_id(line.get("thread_id"))):
        return [], state
    payload = {"session_id": found, "model": state.model, "cli_version": state.cli_version}
    return [Event("session", payload)], replace(state, session_id=found)


def _on_item(item: Json, state: ReaderState, *, completed: bool) -> tuple[list[Event], ReaderState]:
    match item.get("type"):
        case "agent_message" if completed and (said := text(item.get("text"), MESSAGE_CHARS)).strip():
            return [Event("agent_message", {"text": said})], replace(state, last_text=said)
        case "reasoning" if completed and (thought := text(item.get("text"))).strip():
            return [Event("thinking", {"text": thought})], state
        case "error":
            return [Event("warning", {"text": text(item.get("message"))})], state
        case "command_execution" | "file_change" | "mcp_tool_call" | "web_search" | "collab_tool_call":
            return _on_tool(item, state, completed=completed)
        case _:
            return [], state


def _on_tool(item: Json, state: ReaderState, *, completed: bool) -> tuple[list[Event], ReaderState]:
    """A tool is announced once, some only together with their result."""
    item_id = text(item.get("id"), TITLE_CHARS)
    events: list[Event] = []
    if item_id not in state.open_tools:
        events.append(Event("tool_use", {"id": item_id} | _use(item)))
    still_open = [tool for tool in state.open_tools if tool != item_id]
    if completed:
        events.append(Event("tool_result", {"id": item_id, "ok": _succeeded(item), "output": _output(item)}))
    else:
        still_open.append(item_id)
    return events, replace(state, open_tools=tuple(still_open[-50:]))


def _use(item: Json) -> Json:
    kind = item.get("type")
    if kind == "command_execution":
        command = _without_shell(text(item.get("command"), MESSAGE_CHARS))
        return {"name": "shell", "input": clip_json({"command": command}), "title": first_line(f"$ {command}")}
    if kind == "file_change":
        changes = items(item.get("changes"))
        return {"name": "apply_patch", "input": clip_json({"changes": changes}), "title": _changes_title(changes)}
    if kind == "web_search":
        query = text(item.get("query"))
        return {"name": "web_search", "input": {"query": query}, "title": first_line(f"Search the web: {query}")}
    name = ".".join(filter(None, (text(item.get(part), TITLE_CHARS) for part in ("server", "tool"))))
    return {"name": name, "input": clip_json(obj(item.get("arguments"))), "title": first_line(f"Use {name}")}


def _without_shell(command: str) -> str:
    """`ls` for `/bin/bash -lc ls`."""
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    return words[2] if len(words) == 3 and words[1] in ("-lc", "-c") else command


def _changes_title(changes: list[Json]) -> str:
    paths = [text(change.get("path")) for change in changes]
    kinds = {text(change.get("kind"), TITLE_CHARS) for change in changes}
    verb = CHANGES.get(kinds.pop(), "Edit") if len(kinds) == 1 else "Edit"
    return first_line(f"{verb} {', '.join(paths)}")


def _succeeded(item: Json) -> bool:
    exit_code = item.get("exit_code")
    return item.get("status") != "failed" and exit_code in (0, None) and not item.get("error")


def _output(item: Json) -> str:
    """What a command printed, what a tool answered, or why it failed."""
    if error := text(obj(item.get("error")).get("message")):
        return error
    answer = obj(item.get("result")).get("content")
    return text(item.get("aggregated_output")) or clip(
        "\n".join(text(part.get("text")) for part in items(answer)), MESSAGE_CHARS
    )


def _on_error(message: str, state: ReaderState) -> tuple[list[Event], ReaderState]:
    """While it tries again the turn goes on; otherwise `turn.failed` follows with the same words."""
    if message.startswith("Reconnecting"):
        return [Event("warning", {"text": message})], state
    return [], replace(state, last_error=message)


def _on_failed(message: str, state: ReaderState) -> tuple[list[Event], ReaderState]:
    said = message or state.last_error
    failed = AgentResult(ok=False, text=said, error_code=classify(said), usage=state.usage, cost_usd=state.cost_usd)
    return state.ended(failed)


def _message(error: Json) -> str:
    """What went wrong; some errors are the provider's JSON body as it came."""
    message = _URL.sub("", text(error.get("message"), MESSAGE_CHARS))
    try:
        body = obj(json.loads(message))
    except (ValueError, RecursionError):
        return message
    return text(obj(body.get("error")).get("message"), MESSAGE_CHARS) or message


def _on_completed(line: Json, state: ReaderState) -> tuple[list[Event], ReaderState]:
    state = _with_totals(obj(line.get("usage")), state)
    return state.ended(AgentResult(ok=True, text=state.last_text, usage=state.usage, cost_usd=state.cost_usd))


def _with_totals(session: Json, state: ReaderState) -> ReaderState:
    """The state that knows what its session has used so far, which counts on when it is resumed."""
    totals = {key: float(count) for key, count in _counts(session).items()}
    usage = _usage({key: int(count) for key, count in since(state.totals_before, totals).items()})
    return replace(state, totals=totals, usage=usage, cost_usd=cost_usd(state.model, usage))


def _counts(usage: Json) -> dict[str, int]:
    names = ("input_tokens", "cached_input_tokens", "cache_write_input_tokens", "output_tokens")
    return {name: max(0, number(usage.get(name)) or 0) for name in names}


def _usage(counts: Mapping[str, int]) -> dict[str, int]:
    """Codex counts cached and cache-writing tokens as input, too; ours are apart, as they are priced apart."""
    cached, written = counts["cached_input_tokens"], counts["cache_write_input_tokens"]
    return {
        "input_tokens": max(0, counts["input_tokens"] - cached - written),
        "cached_input_tokens": cached,
        "cache_write_tokens": written,
        "output_tokens": counts["output_tokens"],
    }
