# The environment makes itself: every target depends on the stamp of what it needs, and the stamp on what decides that.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
LAB    := $(VENV)/.lab
TEST   := $(VENV)/.test
PEERS  := $(VENV)/bench-peers
UV     := $(shell command -v uv 2>/dev/null)
ifneq ($(UV),)
INSTALL := uv pip install --quiet --python $(BIN)/python
else
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
endif
# Tests of one file, and the cells of one notebook, stay together and in order: what the workers share out is files.
WORKERS ?= 2
# Tests in a browser wait more than they work; how many run beside each other.
HANDS   ?= 2
# A test that hangs says where, and fails: it once took the whole time of a run with it.
PYTEST  := $(BIN)/pytest -q -o faulthandler_timeout=600 -o faulthandler_exit_on_timeout=true
FILES   := --dist loadfile --max-worker-restart=0
# In the order they are named: with those of most tests first, slow files of few would be left to one worker.
SPREAD  := $(PYTEST) -n $(WORKERS) $(FILES) --no-loadscope-reorder
# The last notebook takes longest: begun last, it would leave the other worker idle.
CELLS   := -p nbval --nbval --nbval-current-env --nbval-sanitize-with tests/nbval-sanitize.cfg
BROWSER := $(shell grep -l 'mark\.browser' tests/test_*.py)
SAMPLE   = --sample
LIVE_SECONDS ?= 120
BOOKS   = $(wildcard notebooks/*.ipynb)

# Jupyter refuses to start as root, which is who one is in a container.
ROOT_FLAG := $(if $(filter 0,$(shell id -u)),--allow-root)
LAB_FLAGS ?=

.DEFAULT_GOAL := help
.PHONY: help lab test sweep shuffle live kills record-releases lint format notebooks toy site teach student mutants fuzz \
	search proofs bench lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# Of a notebook that nobody has signed, JupyterLab shows the text that stands behind each stored picture.
lab: $(LAB) ## open the notebooks in JupyterLab
	-@$(BIN)/jupyter trust $(BOOKS) >/dev/null
	$(BIN)/jupyter lab $(ROOT_FLAG) $(LAB_FLAGS) --notebook-dir=notebooks

test: lint ## lint, types, tests (of long sweeps a few cases, no long test), and every notebook's outputs
	$(BIN)/mypy
	$(SPREAD) $(SAMPLE) -m "not browser"
	$(PYTEST) -n $(HANDS) $(FILES) $(SAMPLE) -m browser $(BROWSER)
ifneq ($(BOOKS),)
	$(SPREAD) $(CELLS) $(shell ls -r notebooks/*.ipynb)
else
	@echo "notebooks/ holds no notebook yet: nothing to compare"
endif

sweep: SAMPLE =
sweep: test ## the same with every test and every case: what .ci/run does

# One seed gives one order: what fails in it fails again with SEED=N.
SEED ?= $(shell date +%s)
shuffle: $(TEST) ## the tests without a browser in random order, another each time
	@echo "SEED=$(SEED)"
	ANONFOLIO_ORDER=$(SEED) $(SPREAD) -m "not browser"

# Exit code 1 is a difference; 2 says that this machine cannot be asked now, and why.
live: $(TEST) ## hold the model against this machine's kernel: fixed programs, then two minutes of fresh ones (root)
	@if $(BIN)/python -m anonfolio doctor; then \
		ANONFOLIO_LIVE=1 $(PYTEST) -m live && \
		{ $(BIN)/python -m anonfolio compare --seconds $(LIVE_SECONDS) --kind any --seed fresh --keep data/failing \
			|| [ $$? -eq 2 ]; }; \
	else echo "live comparison skipped: see the first no"; fi

kills: $(TEST) ## kill live runs at a hundred random moments, and look what stays (root, a quarter of an hour)
	ANONFOLIO_LIVE=1 ANONFOLIO_KILLS=100 $(BIN)/pytest -q -m live tests/test_live.py -k random_moment

# The packages: apt-get download linux-image-VERSION-cloud-amd64, linux-binary-VERSION-cloud-amd64.
record-releases: $(TEST) ## record every kernel package of KERNELS=FOLDER in emulation; say which fields that notices
	$(BIN)/python tools/releases.py record $(or $(KERNELS),kernels)
	$(BIN)/python tools/releases.py table

lint: $(TEST) ## ruff, without changing anything
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(TEST) ## ruff, in place
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

toy: $(TEST) ## compute the states of the toy on the site anew
	$(BIN)/python tools/toy.py

notebooks: $(LAB) ## execute every notebook and store its outputs in normal form
	$(BIN)/python tools/notebooks.py execute

site: $(LAB) ## the notebooks as web pages that need no network, in site/
	$(BIN)/python tools/site.py

# Out of the students' way: neither is part of the repository.
teach: $(LAB) ## figures, slides, solutions and common mistakes for who teaches, in teach/out/
	$(BIN)/python -m anonfolio.teach.kit slides teach/out
	$(BIN)/python -m anonfolio.teach.kit solutions teach/out/solutions

student: $(LAB) ## the notebooks without outputs, to hand out, in teach/out/notebooks/
	$(BIN)/python -m anonfolio.teach.kit student teach/out/notebooks

mutants: $(TEST) ## break the model on purpose, one way at a time: each must fail a test
	$(BIN)/python tools/mutants.py

EXAMPLES ?= 5000
fuzz: $(TEST) ## EXAMPLES new ones (5000) for each reader and the command, 300 questions a topic: minutes, more with more
	HYPOTHESIS_PROFILE=explore ANONFOLIO_EXAMPLES=$(EXAMPLES) $(BIN)/pytest -q tests/test_fuzz.py tests/test_homework.py

# Then one step beyond the six in which RFC v2 loses a pinned page; minutes, so not in every test run.
search: $(LAB) ## run the quick stored proofs again, then look for a program that breaks a promise of the kernel
	$(BIN)/python tools/proofs.py
	for policy in rfc-v2-fixed linux-6.3 linux-6.8 linux-6.9 linux-6.15; do \
		$(BIN)/python -m anonfolio search --policy $$policy --steps 7 || exit 1; done
	! $(BIN)/python -m anonfolio search --policy rfc-v2

proofs: $(LAB) ## run every stored proof again, and those that have not come to their end: hours
	$(BIN)/python tools/proofs.py --slow --jobs $(WORKERS)

# Simulators of others, for the bench alone: no part of the environment, and left out where they cannot be had.
$(PEERS)/.installed: benchmarks/requirements.lock $(TEST)
	@rm -rf $(PEERS) && mkdir -p $(PEERS)
	-@$(INSTALL) --target $(PEERS) --require-hashes --no-deps --no-build-isolation \
		-r benchmarks/requirements.lock && touch $@

bench: $(PEERS)/.installed ## side by side: model and kernel, TLB and other simulators (root and a C compiler, or less)
	PYTHONPATH=$(PEERS) $(BIN)/python benchmarks/bench.py

# The universal resolution serves every Python from 3.11 on and every system; uv is the one tool that makes it. What the
# lab needs is a lock of its own; that of the tests holds what they need beyond it.
COMPILE := uv pip compile --quiet --upgrade --universal --generate-hashes --no-emit-index-url --no-header --no-annotate \
	pyproject.toml
lock: ## pin the newest versions anew (needs uv)
	@command -v uv >/dev/null || { echo "error: make lock needs uv on the PATH" >&2; exit 1; }
	$(COMPILE) --extra lab --group build --output-file requirements.lock
	$(COMPILE) --extra lab --extra test --group build --constraint requirements.lock \
		$$(sed -n 's/^\([^= ]*\)==.*/--no-emit-package \1/p' requirements.lock) --output-file tests/requirements.lock
	$(COMPILE) --no-deps --no-emit-package numpy --extra bench --output-file benchmarks/requirements.lock

clean: ## remove the environment and everything generated
	rm -rf $(VENV) build site teach/out benchmarks/out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -type d -prune -exec rm -rf {} +

$(LAB): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "error: $(PYTHON) is not Python 3.11 or newer; name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "setting up $(VENV) for JupyterLab: a minute or two, and nothing is said meanwhile" >&2
ifneq ($(UV),)
	@$(BIN)/python -c '' 2>/dev/null || \
		uv venv --quiet --clear --python "$$($(PYTHON) -c 'import sys; print(sys.executable)')" $(VENV)
else
# A venv that failed half-way can hold a pip that answers: nothing of it may be left for the next run.
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || \
		$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); exit 1; }
endif
	$(INSTALL) --require-hashes -r requirements.lock
	$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

# Both locks, so that the installer can see that they fit together; what the lab has is not installed again.
$(TEST): $(LAB) tests/requirements.lock
	$(INSTALL) --require-hashes -r requirements.lock -r tests/requirements.lock
	@touch $@
