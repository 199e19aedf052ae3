# Works on a machine without ROS: .venv gets everything, ROS 2 included. On a ROS 2 machine use colcon build instead.

PYTHON ?= python3
OUT ?= demo_output
VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/runtime.stamp
DEV := $(VENV)/dev.stamp

# Processes find each other on this machine only.
export ROS_AUTOMATIC_DISCOVERY_RANGE := LOCALHOST
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# .venv brings its own ROS; libraries and modules of a sourced ROS installation would mix with it.
unexport PYTHONPATH PYTHONHOME LD_LIBRARY_PATH AMENT_PREFIX_PATH RMW_IMPLEMENTATION _ROS_WHEELS_BOOTSTRAP_COMPLETE

.PHONY: help demo test lint clean
.DEFAULT_GOAL := help

help: ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-6s %s\n", $$1, $$2}'

demo: $(RUNTIME) ## run the simulated camera and the node over DDS; pictures and numbers go to demo_output/ (OUT=...)
	@$(BIN)/dkn demo --out $(OUT)

test: $(DEV) ## run all tests (ARGS="-k name" selects)
	@$(BIN)/python -m pytest $(ARGS)

lint: $(DEV) ## check style and types
	@$(BIN)/ruff check .
	@$(BIN)/mypy

clean: ## remove .venv, caches and build outputs
	@rm -rf $(VENV) build install log dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis demo_output
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 10) or sys.exit("$(PYTHON) is Python %d.%d; wanted: 3.10 or newer. Set it with: make PYTHON=python3.12" % v[:2])'
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "$(PYTHON) -m venv failed; on Debian and Ubuntu install it with: sudo apt install python3-venv"; exit 1; }

$(RUNTIME): requirements.txt setup.py setup.cfg package.xml | $(BIN)/python
	@echo "Installing PyTorch, ROS 2 and the rest into $(VENV): once, some minutes ..."
	@$(BIN)/python -m pip install --quiet --quiet -r requirements.txt
	@# --use-pep517: Python 3.10's own pip would call setup.py develop, whose options in setup.cfg are for colcon.
	@$(BIN)/python -m pip install --quiet --quiet --no-deps --no-build-isolation --use-pep517 --editable .
	@touch $@

$(DEV): requirements-dev.txt $(RUNTIME)
	@echo "Installing the test tools into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --quiet -r requirements-dev.txt
	@touch $@
