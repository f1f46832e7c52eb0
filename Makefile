# `make demo` and `make test` each take a machine with Python, pip, venv and make to the end.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Another environment, as both stacks install the same modules.
UPSTREAM := .venv-openmmlab
UPSTREAM_STAMP := $(UPSTREAM)/.installed
PIP_OPTIONS := --retries 10 --timeout 120 --disable-pip-version-check --no-deps

# segmentation or classification.
TASK ?= segmentation
# A folder in the layout of docs/datasets.md (CamVid, or CIFAR-10 for classification); without one
# the drawn street scenes are used.
DATA ?=
RATIO ?= 0.5
ITERS ?= 300
DEMO_DIR := work_dirs/demo$(if $(filter classification,$(TASK)),_classification)
DRAWN_segmentation := configs/street_scenes/deeplabv3_r18-d8-w32_1xb8-pfb0.5-300_street-scenes-160x160.py
DRAWN_classification := configs/street_scenes/resnet18-w16_1xb32-pfb0.5-300_street-conditions.py
REAL_segmentation := configs/camvid/deeplabv3_r18-d8-w32_1xb8-pfb0.5-300_camvid-160x160.py
REAL_classification := configs/cifar10/resnet18-w16_1xb64-pfb0.5-300_cifar10.py
ifeq ($(strip $(DATA)),)
DEMO_CONFIG := $(DRAWN_$(TASK))
DEMO_DATA :=
DEMO_GROUPS := --groups data/street_scenes/conditions.json
else
DEMO_CONFIG := $(REAL_$(TASK))
DEMO_GROUPS := $(if $(wildcard $(DATA)/train/airplane),--by-folder)
DEMO_DATA := $(foreach split,train val test,$(split)_dataloader.dataset.data_root='$(DATA)')
endif

# Two test processes with one thread each: more threads than cores only slow one another down.
TEST = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(1)/bin/python -m pytest -n 2

define MAKE_VENV
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
  { echo 'Python 3.11 or newer is needed; name one with `make PYTHON=python3.11`.' >&2; exit 1; }
@$(1)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(1)
endef

# The lock is complete, so nothing is resolved; the second and third attempt cover a line that drops
# in the middle of a large wheel.
define INSTALL
@for attempt in 1 2 3; do \
  $(1)/bin/python -m pip install $(PIP_OPTIONS) $(2) && exit 0; \
  echo "Installing failed (attempt $$attempt of 3)." >&2; sleep 5; \
done; exit 1
endef

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo demo-arguments test test-openmmlab test-fast lint clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo '  demo takes TASK=classification, DATA=/path/to/camvid or cifar10, RATIO=$(RATIO) and'
	@echo '  ITERS=$(ITERS); all take PYTHON=$(PYTHON)'

install: $(STAMP) ## make .venv from requirements/lock.txt

$(STAMP): requirements/lock.txt setup.py
	$(call MAKE_VENV,$(VENV))
	$(call INSTALL,$(VENV),-r requirements/lock.txt)
	$(VENV)/bin/python -m pip install $(PIP_OPTIONS) --no-build-isolation --editable .
	@touch $@

# The locked PyTorch needs C++20, mmcv 2.1.0 asks for C++17, and the last -std counts. Nothing is
# optimised: compiling takes half as long so, and few tests use mmcv's operations.
$(UPSTREAM_STAMP): requirements/lock.txt requirements/openmmlab.txt setup.py
	$(call MAKE_VENV,$(UPSTREAM))
	grep -Ev '^(onedl-|setuptools==)' requirements/lock.txt > $(UPSTREAM)/lock.txt
	$(call INSTALL,$(UPSTREAM),-r $(UPSTREAM)/lock.txt -r requirements/openmmlab.txt)
	@printf '#!/bin/sh\nexec g++ "$$@" -std=c++20 -O0 -g0\n' > $(UPSTREAM)/bin/c++
	@chmod +x $(UPSTREAM)/bin/c++
	PATH="$(CURDIR)/$(UPSTREAM)/bin:$$PATH" MMCV_WITH_OPS=1 FORCE_CUDA=0 \
	  $(UPSTREAM)/bin/python -m pip install $(PIP_OPTIONS) --no-build-isolation mmcv==2.1.0
	$(UPSTREAM)/bin/python -m pip install $(PIP_OPTIONS) --no-build-isolation --editable .
	@touch $@

demo-arguments:
	@case '$(TASK)' in segmentation|classification) ;; *) \
	  echo 'Expected TASK to be segmentation or classification, but got "$(TASK)".' >&2; \
	  exit 2;; esac
	@case '$(ITERS)' in ''|*[!0-9]*) \
	  echo 'Expected ITERS to be a whole number, but got "$(ITERS)".' >&2; exit 2;; esac
	@test '$(ITERS)' -ge 60 || \
	  { echo 'Expected ITERS to be at least 60, but got $(ITERS).' >&2; exit 2; }
	@echo '$(RATIO)' | grep -Eq '^(0|0?\.[0-9]+)$$' || \
	  { echo 'Expected RATIO to be in [0, 1), but got "$(RATIO)".' >&2; exit 2; }
ifneq ($(strip $(DATA)),)
ifeq ($(TASK),classification)
	@# Folders are listed, not files: 50,000 paths are more than a command line takes.
	@for half in 'train/*/:data_batch_1' 'test/*/:test_batch'; do \
	  test -e '$(DATA)'/cifar-10-batches-py/$${half#*:} || \
	  ls '$(DATA)'/$${half%:*} 2>/dev/null | grep -Eiq '\.(jpg|jpeg|png)$$' || { \
	    echo "Expected DATA to hold images $${half%:*}* or cifar-10-batches-py/$${half#*:}," \
	      'but found neither in $(DATA).' >&2; \
	    echo 'docs/datasets.md describes both layouts; without DATA the demo draws its own' \
	      'images.' >&2; exit 2; }; \
	done
else
	@for folder in images/train images/val annotations/train annotations/val; do \
	  case "$$folder" in images/*) suffix=jpg;; *) suffix=png;; esac; \
	  ls '$(DATA)'/$$folder 2>/dev/null | grep -q "\.$$suffix$$" || { \
	    echo "Expected DATA to hold $$folder/*.$$suffix, but found none in $(DATA)/$$folder." >&2; \
	    echo 'docs/datasets.md describes the layout and the converter; without DATA the demo' \
	      'draws its own street scenes.' >&2; exit 2; }; \
	done
endif
endif

# The arguments are checked first: a wrong path must not show up after minutes of installing.
demo: demo-arguments ## train a small model with PFB and show which images it pruned
	@$(MAKE) --no-print-directory install
	$(BIN)/python tools/train.py $(DEMO_CONFIG) --work-dir $(DEMO_DIR) --cfg-options \
	  model.pruning.ratio=$(RATIO) train_cfg.max_iters=$(ITERS) train_cfg.val_interval=$(ITERS) \
	  param_scheduler.1.end=$(ITERS) default_hooks.checkpoint.interval=$(ITERS) $(DEMO_DATA)
	$(BIN)/python tools/analysis_tools/contact_sheet.py $(DEMO_DIR) $(DEMO_GROUPS)

lint: $(STAMP) ## ruff, and mypy on mmpfb/core
	$(BIN)/python -m ruff check
	$(BIN)/python -m mypy

test: lint ## lint, then all tests
	$(call TEST,$(VENV))

test-openmmlab: $(UPSTREAM_STAMP) ## the tests on OpenMMLab's own packages; compiles mmcv first
	TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 $(call TEST,$(UPSTREAM))

test-fast: $(STAMP) ## the tests that take no more than a few seconds each
	$(call TEST,$(VENV)) -m 'not slow'

clean: ## remove what building and testing left; keeps .venv, data and work_dirs
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
