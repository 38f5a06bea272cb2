"""Variables that a developer's shell, a CI job or a container has for other programs, with values that do harm if used.

`TRAP` is put in the place of an address: a test that finds a request there has found a variable that was used.
"""

CANARY = "canary-5f1c9e"  # in every value that looks like a key
MISSING = "/nonexistent/for-tests"


def foreign_variables(trap):
    """At least a hundred; `trap` is a URL at which nothing of the stack listens."""
    host_and_port = trap.removeprefix("http://")
    host, _, port = host_and_port.partition(":")
    addresses = (
        *("SUPABASE_URL", "NEXT_PUBLIC_SUPABASE_URL", "ANTHROPIC_BASE_URL", "ANTHROPIC_API_URL", "OPENAI_BASE_URL"),
        *("OPENAI_API_BASE", "GITHUB_API_URL", "GITHUB_SERVER_URL", "GITHUB_GRAPHQL_URL", "E2B_API_URL"),
        *("E2B_SANDBOX_URL", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SQS", "AWS_ENDPOINT_URL_STS", "TASK_QUEUE_URL"),
        *("REPLAY_QUEUE_URL", "SUPABASE_JWT_ISSUER", "REPO_ORIGINS", "CORS_ORIGINS", "http_proxy", "HTTP_PROXY"),
        *("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "ANTHROPIC_BEDROCK_BASE_URL", "VAULT_ADDR"),
        *("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_EC2_METADATA_SERVICE_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        *("SENTRY_DSN", "GIT_PROXY_COMMAND", "DOCKER_HOST", "OLLAMA_HOST"),
    )
    keys = (
        *("SUPABASE_PUBLISHABLE_KEY", "SUPABASE_SECRET_KEY", "SUPABASE_ANON_KEY", "SUPABASE_SERVICE_ROLE_KEY"),
        *("SUPABASE_ACCESS_TOKEN", "JWT_SECRET", "SECRETS_MASTER_KEYS", "E2B_API_KEY", "E2B_ACCESS_TOKEN"),
        *("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN", "OPENAI_API_KEY", "CODEX_API_KEY"),
        *("GITHUB_TOKEN", "GH_TOKEN", "GH_ENTERPRISE_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"),
        *("AWS_SESSION_TOKEN", "TEST_USERS_SECRET", "SCRIPTED_MODEL_KEY", "PGPASSWORD", "SECRETS_KMS_KEY_ID"),
    )
    files = (
        *("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CA_BUNDLE", "AWS_WEB_IDENTITY_TOKEN_FILE"),
        *(
            "SSL_CERT_FILE",
            "SSL_CERT_DIR",
            "REQUESTS_CA_BUNDLE",
            "CURL_CA_BUNDLE",
            "NODE_EXTRA_CA_CERTS",
            "PGSERVICEFILE",
        ),
        *("PGPASSFILE", "PGSSLROOTCERT", "GIT_SSL_CAINFO", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM", "GIT_DIR"),
        *(
            "GIT_WORK_TREE",
            "GIT_INDEX_FILE",
            "GIT_OBJECT_DIRECTORY",
            "GIT_TEMPLATE_DIR",
            "GIT_EXEC_PATH",
            "GIT_ASKPASS",
        ),
        *("CODEX_HOME", "CLAUDE_CONFIG_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "VIRTUAL_ENV"),
        *("CONDA_PREFIX", "PYTHONHOME", "PYTHONPATH", "PYTHONSTARTUP", "PYTHONPYCACHEPREFIX", "PYTHONUSERBASE"),
        *("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_LOG", "PIP_REQUIREMENT", "NODE_PATH", "BASH_ENV", "ENV"),
        *("TMPDIR", "PYTHON", "MYPYPATH", "LD_LIBRARY_PATH_OF_ANOTHER", "MALLOC_CONF", "JAVA_HOME"),
    )
    others = {
        **{"PGHOST": host, "PGPORT": port, "PGUSER": "another", "PGDATABASE": "another", "PGSERVICE": "another"},
        **{"PGOPTIONS": "-c statement_timeout=1", "PGSSLMODE": "verify-full", "PGCLIENTENCODING": "LATIN1"},
        **{"DATABASE_URL": f"postgresql://u:p@{host_and_port}/d", "POSTGRES_URL": f"postgresql://u@{host_and_port}/d"},
        **{"AWS_PROFILE": "no-such-profile", "AWS_DEFAULT_PROFILE": "no-such-profile", "AWS_REGION": "eu-north-9"},
        **{"AWS_DEFAULT_REGION": "eu-north-9", "AWS_SDK_LOAD_CONFIG": "1", "AWS_USE_FIPS_ENDPOINT": "true"},
        **{"AWS_USE_DUALSTACK_ENDPOINT": "true", "AWS_MAX_ATTEMPTS": "99", "AWS_RETRY_MODE": "adaptive"},
        **{"E2B_DOMAIN": host_and_port, "E2B_DEBUG": "true", "E2B_TEMPLATE": "another", "E2B_VALIDATE_API_KEY": "true"},
        **{
            "CLAUDE_MODEL": "another",
            "CODEX_MODEL": "another",
            "ANTHROPIC_MODEL": "another",
            "OPENAI_MODEL": "another",
        },
        **{"CLAUDE_CODE_USE_BEDROCK": "1", "CLAUDE_CODE_USE_VERTEX": "1", "OPENAI_ORGANIZATION": "another"},
        **{
            "ENABLE_TEST_USERS": "true",
            "TOKEN_EXCHANGE": "strict",
            "ENVIRONMENT": "production",
            "JWT_ALGORITHM": "RS256",
        },
        **{"SUPABASE_JWKS": "no json", "RUN_TIMEOUT_S": "1", "STEP_LEASE_S": "1", "MAX_STEPS": "1", "CLONE_DEPTH": "0"},
        **{"AGENT_MAX_COST_USD": "0", "QUEUE_TIMEOUT_S": "1", "PROMPT_MAX_CHARS": "1", "SANDBOX_NETWORK": "another"},
        **{"GIT_AUTHOR_NAME": "", "GIT_AUTHOR_EMAIL": "", "GIT_COMMITTER_DATE": "no date", "GIT_SSH_COMMAND": "false"},
        **{"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.bare", "GIT_CONFIG_VALUE_0": "true", "GIT_TRACE": "1"},
        **{"GIT_ALLOW_PROTOCOL": "none", "GIT_DEFAULT_HASH": "sha256", "GIT_PAGER": "false", "GIT_EDITOR": "false"},
        **{"PYTHONSAFEPATH": "1", "PYTHONWARNINGS": "error", "PYTHONOPTIMIZE": "2", "PYTHONINSPECT": "1"},
        **{"PYTHONVERBOSE": "", "PYTHONIOENCODING": "ascii", "PYTHONHASHSEED": "no number", "PYTHONUTF8": "0"},
        **{"PYTHONDEVMODE": "1", "PYTHONNOUSERSITE": "", "PYTHONPROFILEIMPORTTIME": "1", "PYTHONCOERCECLOCALE": "0"},
        **{"PIP_USER": "1", "PIP_DRY_RUN": "1", "PIP_NO_DEPS": "1", "PIP_REQUIRE_HASHES": "1", "PIP_PLATFORM": "win32"},
        **{"PIP_REQUIRE_VIRTUALENV": "1", "PIP_QUIET": "0", "PIP_NO_BINARY": ":all:", "PIP_PYTHON_VERSION": "2.7"},
        **{
            "NODE_OPTIONS": "--require /nonexistent/for-tests",
            "NODE_ENV": "production",
            "no_proxy": "",
            "NO_PROXY": "",
        },
        **{
            "PORT": "1",
            "HOST": "203.0.113.1",
            "HOSTNAME": "another",
            "AGENT": "another",
            "PROMPT": "$P$G",
            "REPO": "/",
        },
        **{"PR": "1", "CLOUD": "aws", "STAGE": "prod", "ARCH": "sparc", "WORKERS": "many", "N": "many", "SEED": "x"},
        **{"UPGRADE": "1", "RUNTIME_PYTHON": "2.7", "VENV": MISSING, "CI": "true", "DEBUG": "*", "LOG_LEVEL": "TRACE"},
        **{
            "POWERTOOLS_DEV": "1",
            "POWERTOOLS_LOG_LEVEL": "another",
            "POWERTOOLS_TRACE_DISABLED": "0",
            "TZ": "Asia/Tokyo",
        },
        **{"LAMBDA_TASK_ROOT": MISSING, "AWS_LAMBDA_FUNCTION_NAME": "another", "AWS_EXECUTION_ENV": "another"},
        **{"WEB_CONCURRENCY": "9", "UVICORN_PORT": "1", "FORWARDED_ALLOW_IPS": "*", "FLASK_APP": "another"},
        **{
            "MOTO_PORT": "1",
            "S3_IGNORE_SUBDOMAIN_BUCKETNAME": "1",
            "HTTPX_LOG_LEVEL": "trace",
            "RICH_THEME": "another",
        },
        **{"LANG": "xx_XX.UTF-8", "LC_ALL": "xx_XX", "SHELLOPTS_OF_ANOTHER": "x", "IFS": "/", "CDPATH": MISSING},
        **{"GREP_OPTIONS": "-v", "POSIXLY_CORRECT": "1", "MAKEFILES_OF_ANOTHER": MISSING, "USER": "another"},
    }
    return {
        **dict.fromkeys(addresses, trap),
        **{name: f"{CANARY}-{name.lower()}-0123456789abcdefghij" for name in keys},
        **dict.fromkeys(files, MISSING),
        **others,
    }
