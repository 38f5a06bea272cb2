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

# The user that the executor runs agents as: it has no password and no sudo.
RUN useradd --create-home --shell /bin/bash agent \
    && chmod 0700 /root

# E2B's build scripts run after this file and open what it has closed. One of these programs runs after them (see
# template.py, which puts them into the build's context).
COPY programs.pyz /usr/lib/async-code/programs.pyz

# There is no ENV for what runs need: E2B keeps it while it builds, and no sandbox has it. The executor gives each
# command its environment.
