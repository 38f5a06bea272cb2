# Everything a person needs: `make help`. Also the SAM build targets (`build-<LogicalId>`), which `sam build` calls.
# Needs git, GNU make (3.81 or newer, the one macOS ships) and Python 3.11 or newer.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.SUFFIXES:

# Options of the targets, on make's command line only: `make demo PR=1`. In the environment, names as common as
# these belong to other programs. `value` hands the text on as it was typed: neither make nor the shell looks at quotes,
# dollars or line breaks in a prompt.
FOR_PROGRAMS := REPO PROMPT AGENT PR CLOUD HOST ENVD IMAGE
$(foreach name,$(FOR_PROGRAMS),$(if $(filter command,$(origin $(name))),\
	$(eval export override $(name) := $$(value $(name))),$(eval unexport $(name))))
WORKERS := 2
TESTS := tests
N := 50
SEED :=
STAGE := dev
UPGRADE :=
# As the template says: Runtime and Architectures.
RUNTIME_PYTHON := 3.13
ARCH := arm64
unexport WORKERS TESTS N SEED STAGE UPGRADE RUNTIME_PYTHON ARCH

# What would change how Python runs is for other programs, too.
FROM_ENVIRONMENT := $(foreach name,$(.VARIABLES),$(if $(filter environment,$(firstword $(origin $(name)))),$(name)))
unexport $(filter-out PYTHON,$(filter PYTHON% MYPY% RUFF_%,$(FROM_ENVIRONMENT)))

# The first Python that is new enough; another one: make demo PYTHON=/path/to/python3
ifneq ($(firstword $(origin PYTHON)),command)
PYTHON := $(shell for name in "$$PYTHON" python3 python3.13 python3.12 python3.11 /usr/local/bin/python3 \
	/usr/bin/python3; do "$$name" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo "$$name" && break; done)
endif

VENV := .venv
RUN := $(VENV)/bin/python -m
PIP_INSTALL := -I local/pip_environment.py install --quiet --disable-pip-version-check
# Touched when the packages of a requirements file are in; newer than that file = nothing to do.
LOCAL := $(VENV)/.local-packages
DEV := $(VENV)/.dev-packages
# Runs a program with the variables of .env, where the environment does not have them.
WITH_DOTENV := $(RUN) local.with_dotenv

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# ------------------------------------------------------------------------------------------------------------- running

.PHONY: demo
demo: $(LOCAL) ## Run one task on the embedded stack, from HTTP request to diff, or to a pull request (REPO= PROMPT= AGENT= PR=1 CLOUD=)
	@exec $(RUN) local.demo

.PHONY: dev
dev: $(LOCAL) ## Start the embedded stack and keep it running for a frontend; Ctrl-C stops it (REPO= AGENT= CLOUD= HOST=)
	@exec $(RUN) local.dev

# ------------------------------------------------------------------------------------------------------------ checking

.PHONY: check
check: lint ## Style, types, import contracts, unit and wire tests: before each push
	$(RUN) pytest tests/unit tests/wire --numprocesses $(WORKERS) --dist loadfile

.PHONY: test
test: lint ## All of that and the tests that start the embedded stack: what CI runs (TESTS=path for some)
	$(RUN) pytest $(TESTS) --numprocesses $(WORKERS) --dist loadfile

.PHONY: faults
faults: $(DEV) ## Runs that meet faults at random (N=200 runs or N=10m; SEED= one of them again)
	$(RUN) tests.faults $(if $(SEED),--seed $(SEED),--n $(N))

.PHONY: conformance
conformance: $(DEV) ## The suites of the sandbox against a real envd, as root on Linux (ENVD=binary IMAGE=folder TESTS=path)
	@exec $(RUN) tests.conformance --workers $(WORKERS) $(if $(filter command,$(origin TESTS)),$(TESTS))

.PHONY: lint
lint: $(DEV)
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(VENV)/bin/lint-imports
	$(RUN) tools.plain_english

.PHONY: openapi
openapi: $(LOCAL) ## Write docs/openapi.json, the OpenAPI description of the API
	$(RUN) functions.api.document > docs/openapi.json

# ----------------------------------------------------------------------------------------------------------- deploying

SAM_VERSION := 1.170.0
SAM := $(shell command -v sam || echo .local/sam/bin/sam)
export SAM_CLI_TELEMETRY ?= 0

.PHONY: build
build: $(SAM) ## Build the function bundles into .aws-sam (no Docker needed)
	$(SAM) validate --lint
	$(SAM) build

.PHONY: deploy
deploy: build ## Deploy to your AWS account with the settings of samconfig.toml (STAGE=dev|prod)
	$(SAM) deploy --config-env $(STAGE)

.PHONY: replay
replay: $(LOCAL) ## Start the runs again that failed with an internal error, once its cause is fixed (STAGE=dev|prod)
	@exec $(WITH_DOTENV) functions.executor.replay --stack async-code-$(STAGE)

.PHONY: sandbox
sandbox: $(LOCAL) ## Build the E2B sandbox template that e2b.toml describes (needs E2B_API_KEY)
	@exec $(WITH_DOTENV) sandbox.template

# A virtual environment of its own: its many dependencies must not meet ours.
.local/sam/bin/sam:
	@echo "Installing aws-sam-cli $(SAM_VERSION) into .local/sam (once, about a minute) ..."
	@$(PYTHON) -m venv .local/sam
	@.local/sam/bin/python $(PIP_INSTALL) aws-sam-cli==$(SAM_VERSION)

# ---------------------------------------------------------------------------------------------------- function bundles

MACHINE = $(if $(filter arm64,$(ARCH)),aarch64,$(ARCH))
WHEELS = $(foreach glibc,manylinux_2_28 manylinux_2_26 manylinux_2_17 manylinux2014,--platform $(glibc)_$(MACHINE))
PACKAGES = .local/bundles/$(RUNTIME_PYTHON)-$(ARCH)

# /var/task is read-only on Lambda: without bytecode of its very Python, each cold start compiles everything anew
# (measured: 740 ms instead of 330). `unchecked`: Lambda never changes a source, so none needs to be compared.
COMPILER = $(shell for python in python$(RUNTIME_PYTHON) "$$HOME"/.pyenv/versions/$(RUNTIME_PYTHON).*/bin/python; \
	do "$$python" -c 'import sys; print(sys.executable)' 2>/dev/null && break; done)
COMPILE = $(if $(COMPILER),$(COMPILER) -m compileall -q --invalidation-mode unchecked-hash -p /var/task -s,\
	@echo "No python$(RUNTIME_PYTHON) here, so the bundle gets no bytecode and starts slower." ; :)

# Linux wheels of the target, whatever this machine is; installed once per requirements file.
$(PACKAGES)/%: functions/%/requirements.txt | $(VENV)/bin/pip
	rm -rf $@ $@.part
	$(VENV)/bin/python $(PIP_INSTALL) --no-compile --only-binary=:all: $(WHEELS) \
		--implementation cp --python-version $(RUNTIME_PYTHON) --target $@.part --requirement $<
	rm -rf $@.part/bin && find $@.part -type d -name tests -prune -exec rm -rf {} +
	$(COMPILE) $@.part $@.part
	mv $@.part $@
	touch $@

# $(call bundle,function,further folders): packages and our own sources into the folder that SAM names
define bundle
	cp -R $(PACKAGES)/$(1)/. "$(ARTIFACTS_DIR)"
	tar -cf - --exclude='__pycache__' --exclude='requirements*' functions/__init__.py functions/$(1) shared $(2) \
		| tar -xf - -C "$(ARTIFACTS_DIR)"
	$(COMPILE) "$(ARTIFACTS_DIR)" $(foreach sources,functions shared $(firstword $(subst /, ,$(2))),"$(ARTIFACTS_DIR)/$(sources)")
endef

.PHONY: build-ApiFunction build-ExecutorFunction build-DeadLettersFunction build-ReaperFunction
build-ApiFunction: $(PACKAGES)/api
	$(call bundle,api)

# The executor uploads these programs into each sandbox: they travel with it.
build-ExecutorFunction build-DeadLettersFunction build-ReaperFunction: $(PACKAGES)/executor
	$(call bundle,executor,sandbox/__init__.py sandbox/archive.py sandbox/programs)

# --------------------------------------------------------------------------------------------------------- maintenance

.PHONY: lock
lock: .local/uv/bin/uv ## Pin the packages of the *.in files again
	@for name in functions/api/requirements functions/executor/requirements requirements-local requirements-dev; do \
		echo "$$name.txt"; .local/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --no-header \
			$(if $(UPGRADE),--upgrade) $$name.in --output-file $$name.txt || exit 1; \
	done

.local/uv/bin/uv:
	@$(PYTHON) -m venv .local/uv
	@.local/uv/bin/python $(PIP_INSTALL) uv==0.13.9

.PHONY: clean
clean: ## Remove the embedded stack's data, caches and build results; what was downloaded stays
	rm -rf .local/data .local/bundles .aws-sam .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# -------------------------------------------------------------------------------------------------- virtual environment

# Asks whether this machine can do what is wanted, before anything is downloaded for it.
PREFLIGHT := -E -m local.preflight $(if $(filter demo dev test faults,$(MAKECMDGOALS)),stack) \
	$(if $(filter check lint test faults,$(MAKECMDGOALS)),tests)

# pip unpacks hundreds of megabytes: beside the packages, since /tmp may be small, full or read-only.
# What an interrupted installation left there goes first.
WITH_TMP = tmp="$$(pwd)/.local/tmp/$(@F)"; rm -rf "$$tmp" && mkdir -p "$$tmp" && TMPDIR="$$tmp"

# pip is the last thing that venv puts in: a creation that was interrupted is taken up again.
$(VENV)/bin/pip:
	@if [ -z "$(PYTHON)" ]; then \
		echo "Python 3.11 or newer is needed; found: $$(python3 --version 2>&1 || echo none)." >&2; \
		echo "Install one, or name it: make demo PYTHON=/path/to/python3" >&2; exit 1; fi
	@if ! "$(PYTHON)" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
		echo "Python 3.11 or newer is needed; PYTHON=$(PYTHON) is not." >&2; exit 1; fi
	@if ! "$(PYTHON)" -I -c 'import venv, ensurepip' 2>/dev/null; then \
		echo "Python's venv module is missing. On Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; fi
	@"$(PYTHON)" $(PREFLIGHT)
	@$(WITH_TMP) "$(PYTHON)" -I -m venv $(VENV)

$(LOCAL): requirements-local.txt | $(VENV)/bin/pip
	@$(VENV)/bin/python $(PREFLIGHT)
	@echo "Installing the local stack's packages into $(VENV) (once, about a minute) ..."
	@$(WITH_TMP) $(VENV)/bin/python $(PIP_INSTALL) --requirement $<
	@touch $@

# They include the local stack's.
$(DEV): requirements-dev.txt requirements-local.txt | $(VENV)/bin/pip
	@$(VENV)/bin/python $(PREFLIGHT)
	@echo "Installing the packages for checks and tests into $(VENV) (once, about two minutes) ..."
	@$(WITH_TMP) $(VENV)/bin/python $(PIP_INSTALL) --requirement $<
	@touch $(LOCAL) $@
