"""Claude Code (2.1.330, November 2026)."""

from shared.domain.agents.profile import AgentProfile, UserCloud, Wheel

_KEPT_IN_HOME = "the agent's sessions and credentials are kept there"

PROFILE = AgentProfile(
    title="Claude Code",
    short_title="Claude",
    provider="anthropic",
    provider_title="Anthropic",
    base_url="https://api.anthropic.com",
    key_header=("x-api-key", ""),
    program_key_variable="ANTHROPIC_API_KEY",
    key_shape=("an Anthropic key", r"sk-ant-[A-Za-z0-9_-]{24,255}"),
    redacted_shape=r"sk-[A-Za-z0-9_-]{16,}",
    key_variable="ANTHROPIC_API_KEY",
    base_url_variable="ANTHROPIC_BASE_URL",
    model_variable="CLAUDE_MODEL",
    section="claudeCode",
    env={
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",  # telemetry, error reports, update checks
        "CLAUDE_CODE_DISABLE_BACKGROUND_TASKS": "1",  # the run would end without them
        "DISABLE_AUTOUPDATER": "1",
    },
    reserved_variables={
        "BUN_OPTIONS": "it puts other code into Claude Code itself",
        "BUN_INSPECT*": "it gives others access to Claude Code itself",
        "CLAUDE_CONFIG_DIR": _KEPT_IN_HOME,
        "CLAUDE_SECURESTORAGE_CONFIG_DIR": _KEPT_IN_HOME,
    },
    access_variables=(
        "ANTHROPIC_*",  # keys, tokens, headers, base URLs, sockets and profiles
        "CLAUDE_CODE_USE_*",  # Bedrock, Vertex AI, Foundry and other clouds
        "CLAUDE_CODE_SKIP_*_AUTH",  # the same, behind a gateway that signs
        "CLAUDE_CODE_OAUTH_*",  # a subscription
        "CLAUDE_CODE_GATEWAY_*",
        "CLAUDE_CODE_HOST_*",  # a program around it that lends its login
        "CLAUDE_CODE_CLIENT_*",  # certificates
        "CLAUDE_*_SETTINGS_PATH",  # settings may hold any of these
        *("CLAUDE_*_URL", "CLAUDE_*_SOCKET", "CLAUDE_*_TOKEN", "CLAUDE_*_FILE_DESCRIPTOR"),
    ),
    model_choice_variables=(
        "ANTHROPIC_MODEL",
        "ANTHROPIC_DEFAULT_*",
        "ANTHROPIC_SMALL_FAST_MODEL",
        "ANTHROPIC_CUSTOM_MODEL_OPTION*",
        "ANTHROPIC_BETAS",
    ),
    credentials_file=".claude/.credentials.json",
    login_variables=("CLAUDE_CODE_OAUTH_*",),
    login_hosts=("console.anthropic.com", "platform.claude.com"),
    user_clouds={
        "CLAUDE_CODE_USE_BEDROCK": UserCloud(
            hosts=("bedrock-runtime.{}.amazonaws.com", "bedrock.{}.amazonaws.com", "sts.{}.amazonaws.com"),
            variables=("AWS_REGION", "AWS_DEFAULT_REGION"),
            default="us-east-1",
        ),
        "CLAUDE_CODE_USE_VERTEX": UserCloud(
            hosts=("{}-aiplatform.googleapis.com", "aiplatform.googleapis.com", "oauth2.googleapis.com"),
            variables=("CLOUD_ML_REGION",),
            default="global",
        ),
        "CLAUDE_CODE_USE_FOUNDRY": UserCloud(
            hosts=("{}.services.ai.azure.com", "login.microsoftonline.com"),
            variables=("ANTHROPIC_FOUNDRY_RESOURCE",),
            default="",
        ),
    },
    wheel=Wheel(
        package="claude-agent-sdk",
        version="0.2.187",
        program="claude_agent_sdk/_bundled/claude",
        size_mb=167,
    ),
)
