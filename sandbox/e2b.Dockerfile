# What an agent finds in its sandbox. Built by `make sandbox` (see template.py) with E2B's own parser: one stage,
# no USER, since E2B makes every such user a sudoer.
FROM node:22-bookworm-slim

ARG CLAUDE_CODE_VERSION=2.1.330
ARG CODEX_VERSION=0.169.0

RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        build-essential ca-certificates curl git jq openssh-client procps python3 python3-pip python3-venv \
        ripgrep unzip \
    && rm -rf /var/lib/apt/lists/*

RUN npm install --global --no-fund --no-audit \
        "@anthropic-ai/claude-code@${CLAUDE_CODE_VERSION}" "@openai/codex@${CODEX_VERSION}" \
    && npm cache clean --force \
    && claude --version \
    && codex --version

# The agent is nobody special: no sudo, no password, and root's home is closed to it.
RUN useradd --create-home --shell /bin/bash agent \
    && chmod 0700 /root

# E2B's egress proxy may open TLS to put a secret in; its certificate is then in the system's bundle, which
# Node, OpenSSL and git only read when told to.
ENV NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    GIT_SSL_CAINFO=/etc/ssl/certs/ca-certificates.crt

# The versions are pinned above: nothing updates itself while a task runs.
ENV AGENT_USER=agent \
    DISABLE_AUTOUPDATER=1
