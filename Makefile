# `make demo`, `make test`, `make test-full`, `make fuzz`, `make test-lowest`; PYTHON=... chooses the interpreter, VENV=... the environment.
# INSTALLER='uv pip install --quiet --python $(BIN)/python' takes seconds where pip takes minutes.
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLER ?= $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo install lint types test test-full test-fast test-lowest fuzz clean

demo: $(VENV)/.installed
	@$(BIN)/cssl-jax demo

install: $(VENV)/.installed

# An interpreter counts only if it runs and is new enough: a shim that prints an error does not.
$(VENV)/.installed: setup.py setup.cfg requirements.txt
	@if [ -x $(BIN)/python ]; then \
		echo "environment: $(VENV), $$($(BIN)/python --version) (make clean to start from scratch)"; \
	else \
		python=$$(sh launch/find_python.sh "$(PYTHON)") || exit 1; \
		echo "environment: $(VENV), made by $$python"; \
		"$$python" -m venv $(VENV); \
	fi
	@$(INSTALLER) --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@$(INSTALLER) --editable ".[test,dev]"
	@touch $@

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed-dev
	$(BIN)/mypy

# Two at a time: most of it is XLA compiling, which keeps one core busy; a file's fixtures stay together.
test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" --limit-cost

# The TPU compiler lies apart: beside jax it would make every command look for a TPU.
$(VENV)/libtpu: $(VENV)/.installed-dev
	$(INSTALLER) --no-deps --target $@ \
		"$$($(BIN)/python tests/helpers/libtpu.py)"

test-full: test $(VENV)/libtpu
	CSSL_TEST_LIBTPU=$(abspath $(VENV)/libtpu) $(BIN)/python -m pytest -n 2 --dist loadfile -m slow

# What a second Python version is tried with: all that calls JAX, Flax, Orbax and TensorFlow, without the files that
# repeat whole runs.
test-fast: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow" \
		tests/data tests/losses tests/methods tests/step tests/optim tests/checkpoint tests/train tests/selfcheck \
		tests/transfer tests/config/test_config.py --ignore tests/data/profile \
		--ignore tests/train/test_folder_run.py --ignore tests/train/test_interruption.py \
		--ignore tests/train/test_imported_run.py --ignore tests/methods/test_adaptation.py \
		--ignore tests/methods/test_series_methods.py --ignore tests/methods/test_multi_crop.py

# The same tests with the lowest versions that requirements.txt allows, in an environment of their own. uv finds in
# seconds what pip searches for many minutes.
test-lowest:
	python=$$(sh launch/find_python.sh "$(PYTHON)") && "$$python" -m venv .venv-lowest
	.venv-lowest/bin/python tests/helpers/lowest.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	.venv-lowest/bin/uv pip install --quiet --python .venv-lowest/bin/python \
		--constraint .venv-lowest/constraints.txt --editable ".[test,dev]"
	touch .venv-lowest/.installed .venv-lowest/.installed-dev
	$(MAKE) test-fast VENV=.venv-lowest

# Broken files of every format for every reader, masks, lists and labels files, configs, and what a resume may
# change; `make test-full` tries 300.
fuzz: $(VENV)/.installed-dev
	$(BIN)/python tests/fuzz.py --count 10000

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache build dist *.egg-info
