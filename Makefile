# The whole pipeline. `make help` lists the targets; settings are Hydra overrides in ARGS, for example
#   make student ARGS="loss.soft.weight=0.5 optim.epochs=2"
# DATA, MODEL and ROOT (the data's folder) are set once, for the teacher: `make student` uses those of the newest pass,
# later commands those of the newest run. RUN names another run. TAXONOMY is the tree's file, for data that need one.

DATA ?=
MODEL ?=
ROOT ?=
TAXONOMY ?=
ARGS ?=

PYTHON := .venv/bin/python
READY := .venv/.ready
GENERAL := .venv-general/.ready
TRL := .venv-trl/.ready
# One engine: the machine's NVIDIA driver decides which.
ENGINE := $(if $(shell command -v nvidia-smi 2>/dev/null),gpu,cpu)
ifeq ($(ENGINE),cpu)
TORCH := $(if $(PIP_FIND_LINKS),--find-links $(PIP_FIND_LINKS),--torch-backend cpu)
endif
# Engines of a teacher pass: on CPU one a core, up to four; on GPU as many as are asked for.
WORKERS ?= $(if $(filter gpu,$(ENGINE)),1,$(shell n=$$(nproc); echo $$((n < 4 ? n : 4))))
# The teachers of `make controls`, and the seeds of their students.
PARADIGMS := conditioned independent joint shuffled truth
SEEDS ?= 0,1,2,3,4
comma := ,
empty :=
# glibc returns large buffers to the system and requests them again; keeping them saves a third of a step.
KEEP_MEMORY := MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456
# The embedded world's files, rendered first for a command that uses them.
WORLD := $(if $(or $(filter demo%,$(DATA)),$(if $(DATA)$(wildcard runs/*/),,yes)),data/demo/test.json)
COMMON = $(if $(DATA),data=$(DATA)) $(if $(MODEL),model=$(MODEL)) $(if $(ROOT),data.root=$(ROOT:~/%=$(HOME)/%)) \
  $(if $(TAXONOMY),data.hierarchy=$(TAXONOMY:~/%=$(HOME)/%))
# The run's folder where one is named (runs/inat, or runs/inat-<model> where the model is not the data's default); every
# command takes the newest run without it.
RUN_FOLDER = $(if $(RUN)$(DATA),runs/$(or $(RUN),$(if $(wildcard runs/$(DATA)-$(MODEL)/),$(DATA)-$(MODEL),$(DATA))))
# A student is named by what its settings change (runs/demo, runs/demo/seed1), unless RUN says otherwise.
NAMED = $(if $(filter command environment,$(firstword $(origin RUN))),name=$(RUN))

.DEFAULT_GOAL := help
.PHONY: help setup demo world preview peek teacher verify student sweep compare merge evaluate report general lmms-task predict push pull controls figures base bench families lint test test-fast test-kills clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-11s %s\n", $$1, $$2}'

setup: $(READY) ## build .venv with everything (done by every other target when it is missing or stale)

$(READY): pyproject.toml
	@test -x $(PYTHON) || python3 -m venv .venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: python3 is older than 3.11"; exit 1; }
	$(PYTHON) -m pip install --quiet --upgrade 'uv>=0.13.8'
	$(PYTHON) -m uv pip install --python $(PYTHON) --compile-bytecode $(TORCH) -e '.[$(ENGINE),dev]'
	@touch $@

# lmms-eval pins versions that do not fit this project's. Hard links: the copy takes a second and no disk space.
$(GENERAL): $(READY)
	@test -x .venv-general/bin/python || { rm -rf .venv-general.partial && mkdir .venv-general.partial \
	  && cp -al .venv/. .venv-general.partial && rm .venv-general.partial/.ready && mv .venv-general.partial .venv-general; }
	$(PYTHON) -m uv pip install --python .venv-general/bin/python $(TORCH) 'lmms-eval>=0.7.3'
	@touch $@

# What the bench compares with. TRL's own pins do not touch this project's.
$(TRL): $(READY)
	@test -x .venv-trl/bin/python || { rm -rf .venv-trl.partial && mkdir .venv-trl.partial \
	  && cp -al .venv/. .venv-trl.partial && rm .venv-trl.partial/.ready && mv .venv-trl.partial .venv-trl; }
	$(PYTHON) -m uv pip install --python .venv-trl/bin/python $(TORCH) 'trl>=1.16'
	@touch $@

demo: DATA := demo
demo: RUN := demo
demo: teacher student general evaluate report ## the effect on the embedded world: teacher, student, evaluation, report

world: $(READY) ## render the embedded world to data/demo
	$(PYTHON) -m sekd.embedded.world data/demo

data/demo/test.json: | $(READY)
	$(PYTHON) -m sekd.embedded.world data/demo

preview: $(READY) $(if $(filter-out demo%,$(DATA)),,data/demo/test.json) ## show a dozen images with their questions and prompts
	$(PYTHON) -m sekd.preview $(COMMON) $(ARGS)

peek: preview

teacher: $(READY) $(if $(filter-out demo%,$(DATA)),,data/demo/test.json) ## stage 1: the conditioned-step pass, stored under artifacts/ (WORKERS=n engines, CLUSTER=ray)
	$(PYTHON) -m stage1_teacher $(COMMON) workers=$(WORKERS) $(if $(CLUSTER),cluster=$(CLUSTER)) $(ARGS)

verify: $(READY) ## check every byte of the stored passes (of DATA, where it is named)
	$(PYTHON) -m sekd.store.verify artifacts/$(DATA) $(ARGS)

student: $(READY) ## stage 2: distil a LoRA student from the stored pass
	$(KEEP_MEMORY) $(PYTHON) -m stage2_student $(COMMON) $(NAMED) $(ARGS)

sweep: $(READY) ## the ablation hard / soft / hidden / all over seeds, or any Hydra grid in ARGS
	$(KEEP_MEMORY) $(PYTHON) -m stage2_student --multirun $(COMMON) $(or $(ARGS),loss=all,hard,soft,hidden seed=0,1,2)

compare: $(READY) ## one table of all students: mean and spread over seeds, best first
	$(PYTHON) -m stage2_student.compare $(ARGS)

merge: $(READY) ## write the student merged into its base, for tools without adapter support
	$(PYTHON) -m stage2_student.merge $(RUN_FOLDER) $(ARGS)

evaluate: $(READY) $(WORLD) ## base and student, all paradigms, in-domain and unseen
	$(PYTHON) -m sekd.evaluation $(COMMON) $(if $(RUN),name=$(RUN)) $(ARGS)

report: $(READY) ## the evaluated run's report.html
	$(PYTHON) -m sekd.evaluation.report $(RUN_FOLDER) $(ARGS)

general: $(READY) $(if $(TASKS),$(GENERAL)) ## what the student forgot, by lmms-eval: RUN=inat TASKS=mmbench_en_dev_static,mmmu_val (no TASKS: the embedded skills)
ifdef TASKS
	$(PYTHON) -m stage2_student.merge $(RUN_FOLDER)
	$(PYTHON) -m sekd.evaluation.general $(RUN_FOLDER) --tasks "$(TASKS)" $(ARGS)
else
	$(PYTHON) -m sekd.embedded.skills $(RUN_FOLDER)
endif

lmms-task: $(READY) $(WORLD) ## DATA's questions as a task of lmms-eval, for any model: docs/lmms_eval.md
	$(PYTHON) -m sekd.evaluation.general.export $(COMMON) $(ARGS)

predict: $(READY) ## name your own images: IMAGES="photos/ one.jpg", and TAXONOMY=tree.json if not the run's own tree
	$(PYTHON) -m sekd.evaluation.predict $(if $(RUN_FOLDER),--adapter $(RUN_FOLDER)/adapter) \
	  $(if $(TAXONOMY),--taxonomy $(TAXONOMY)) $(ARGS) $(IMAGES)

push: $(READY) ## send a student (RUN=name) or a store (WHAT=artifacts/…) to WHERE=owner/name, s3://…, a folder, a .tar file
	$(PYTHON) -m sekd.share push $(or $(WHAT),$(RUN_FOLDER)) $(WHERE) $(ARGS)

pull: $(READY) ## fetch what was pushed, from WHERE
	$(PYTHON) -m sekd.share pull $(WHERE) $(ARGS)

controls: $(READY) $(WORLD) ## the same student of other teachers: independent, joint, shuffled, labels
	@chosen="$(or $(strip $(COMMON)),$$($(PYTHON) -m sekd.recent))"; set -ex; \
	for paradigm in $(PARADIGMS); do \
	  $(PYTHON) -m stage1_teacher $$chosen workers=$(WORKERS) paradigm=$$paradigm; done; \
	$(KEEP_MEMORY) $(PYTHON) -m stage2_student --multirun $$chosen \
	  paradigm=$(subst $(empty) $(empty),$(comma),$(PARADIGMS)) seed=$(SEEDS) $(ARGS); \
	$(PYTHON) -m sekd.evaluation $$chosen; \
	$(PYTHON) -m sekd.evaluation.report

figures: $(READY) ## draw docs/results.png from the evaluated run's scores and docs/world.png from the embedded world
	$(PYTHON) -m tools.figures $(RUN_FOLDER) $(ARGS)

base: $(READY) ## pretrain the embedded base model again (about 25 minutes on two cores)
	$(KEEP_MEMORY) $(PYTHON) -m tools.pretrain_base $(ARGS)

bench: $(READY) $(TRL) data/demo/test.json ## time both stages against alternatives, as ratios
	$(KEEP_MEMORY) $(PYTHON) -m benchmarks $(ARGS)

families: $(READY) ## docs/models.md: every command on a stand-in of every family (takes about two hours)
	PYTHONPATH=tests $(PYTHON) -m standins.table $(ARGS)

lint: $(READY) ## style, types and import rules
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

# Two processes, each with one thread and whole files: an engine is started once a file, and a process runs one at a time.
test: lint $(GENERAL) ## lint and every test, in two processes (ARGS="-n 0": in one)
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n 2 --dist loadfile $(ARGS)

test-fast: $(READY) ## the tests that take seconds
	$(PYTHON) -m pytest -m "not slow" $(ARGS)

test-kills: $(READY) ## the tests that kill a pass and a writer, KILLS times each
	SEKD_KILLS=$(or $(KILLS),500) $(PYTHON) -m pytest tests/stage1_teacher/test_interruptions.py tests/store/test_writer.py -k kill $(ARGS)

clean: ## remove what the pipeline made; the environment and other data stay
	rm -rf data/demo artifacts/*/ runs outputs multirun
