"""OpenAI Codex (0.163.0 in the embedded stack, 0.169.0 in the image, November 2026)."""

from shared.domain.agents.profile import AgentProfile, Wheel

_KEPT_IN_HOME = "the agent's sessions and credentials are kept there"

PROFILE = AgentProfile(
    title="Codex",
    short_title="Codex/GPT",
    provider="openai",
    provider_title="OpenAI",
    base_url="https://api.openai.com/v1",
    key_header=("Authorization", "Bearer "),
    program_key_variable="CODEX_API_KEY",  # `codex exec` does not read OPENAI_API_KEY
    key_shape=(
        "an OpenAI key",
        r"sk-(?!ant-)(?:proj-|svcacct-|admin-)?(?=[A-Za-z_-]{0,40}[0-9])[A-Za-z0-9_-]{32,255}",
    ),
    redacted_shape=r"sk-[A-Za-z0-9_-]{16,}",
    key_variable="OPENAI_API_KEY",
    base_url_variable="OPENAI_BASE_URL",
    model_variable="CODEX_MODEL",
    section="codex",
    reserved_variables={"CODEX_HOME": _KEPT_IN_HOME, "CODEX_SQLITE_HOME": _KEPT_IN_HOME},
    access_variables=("OPENAI_*", "CODEX_*"),  # keys, tokens, base URLs, certificates
    other_secret_files=(".codex/own-gateway.config.toml",),  # an address may hold a secret
    login_variables=("CODEX_ACCESS_TOKEN",),
    login_hosts=("chatgpt.com", "auth.openai.com"),
    wheel=Wheel(
        package="openai-codex-cli-bin",
        version="0.163.0",
        program="codex_cli_bin/bin/codex",
        size_mb=142,
        model="gpt-6.1-sol",  # the default that Codex 0.169 ships with; without a name its tokens have no price
    ),
)
