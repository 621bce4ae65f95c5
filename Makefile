# Everything a person types. `make demo` or `make test` in a fresh clone sets up what it needs.
#
#   make setup     .venv with the exact versions of requirements.lock; does nothing when that is done
#   make demo      the whole path on the sample archive: prepare, train, evaluate, promote, tag
#   make leaderboard  every family trained and judged on the archives beside the clone, or on ARCHIVE=folder; resumable
#   make ablations  the same with what was taken away from AMNN; what `make leaderboard` did stays
#   make test      lint and all tests
#   make soak      thirty kills over 20,000 posts, the faults of a machine, posts at the edge through every family, hosts in network
#                  namespaces, the image where a Docker daemon is, MLflow away for two minutes; long
#   make mutants   wrong equations put in, one after another: each has to fail its family's tests; by hand, minutes
#   make lint      ruff, formatting, types, import layers
#   make format    let ruff repair and format the code
#   make gpu       what a CUDA card is tried with: every family, encoders, two processes, speed; ends with one table
#   make bench     the benchmarks in tests/benchmarks
#   make docs      the documentation as a site in ./site; a broken link fails it
#   make lock      rewrite both locks for a changed pyproject.toml; pins stay, delete the lines that are to move
#   make clean     remove .venv, caches and what the demo wrote
#
# PYTHON chooses the interpreter (3.11 or newer).
#
# ARCHIVE, NAME, FLAGS: the one archive that `make leaderboard` is to take, what its report is called, and flags of
# jobs/leaderboard.py. PUBLISH=docs/leaderboard copies the reports there; without it they are in ./leaderboard alone.
#
# TORCH chooses another build of PyTorch than the lock's, in pip's words: it is installed first and the lock's own line is
# left out. On a node with GPUs, for example, `make setup TORCH="torch==2.13.0 --index-url <the index of your CUDA build>"`.

.NOTPARALLEL:
.PHONY: setup demo leaderboard ablations test soak mutants lint format gpu bench docs lock clean help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
PIP := pip --disable-pip-version-check --no-input
# A recent pip resolves the lock several times faster than the one that comes with Python 3.11.
PIP_VERSION := 26.3

help:
	@sed -n 's/^#   //p' Makefile

setup: $(READY)

$(READY): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, found " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m $(PIP) install -qq --no-compile pip==$(PIP_VERSION)
ifneq ($(TORCH),)
	$(BIN)/python -m $(PIP) install --no-compile --progress-bar off $(TORCH)
endif
	grep -v $(if $(TORCH),'^torch==','^#') requirements.lock > $(VENV)/requirements.txt
	@echo "Installing $$(wc -l < $(VENV)/requirements.txt) packages into $(VENV): two minutes, or as long as 1 GB takes to arrive."
	@# the lock names all of them
	$(BIN)/python -m $(PIP) install --no-compile --no-deps -qq -r $(VENV)/requirements.txt
	@# pip compiles with one process, and all of it; tests of packages are never imported, and some are no Python 3
	@$(BIN)/python -m compileall -q -q -j 0 -x '/tests?/' $(VENV)/lib || true
	touch $@

demo: setup
	$(BIN)/python jobs/demo.py

SHARED := ../shared/data
ABLATIONS := jobs/recipes/ablations
# For an archive without a picture: the families that read the caption or the history, less the two whose matter is the picture.
OF_TEXT := co_attention,design,linear,lstm_cnn,macon,mlknn,okboomer,popularity,regression_kriging,svm,tab_lstm,tagnet,tweet_embedding,user_frequency
# What DESIGN's claims need, and what tells the modalities apart at once; `make ablations` has the rest.
CLAIMS := $(foreach name,design_sum design_without_history,$(ABLATIONS)/$(name).toml)
MODALITIES := $(foreach name,linear_caption linear_image,$(ABLATIONS)/$(name).toml)
ARCHIVE ?=
NAME ?= $(notdir $(ARCHIVE:/=))
FLAGS ?=
PUBLISH ?=
BOARD = $(BIN)/python jobs/leaderboard.py --name $(1) --archive $(2) $(if $(PUBLISH),--publish $(PUBLISH)/$(1)) $(3)

leaderboard: setup
ifneq ($(ARCHIVE),)
	$(call BOARD,$(NAME),$(ARCHIVE),$(FLAGS))
else ifneq ($(wildcard $(SHARED)/openclipart),)
	$(call BOARD,openclipart,$(SHARED)/openclipart,--split by_user --set split.test=0.25 --recipes $(CLAIMS) $(MODALITIES))
	$(call BOARD,mvsa,$(SHARED)/mvsa,--split by_user --set split.test=0.25 --recipes $(MODALITIES))
	$(call BOARD,tate,$(SHARED)/tate,--split by_time --set training.train_share=0.3 --families $(OF_TEXT) --recipes $(CLAIMS))
else
	$(call BOARD,sample,jobs/sample,$(FLAGS))
endif

ablations: setup
	$(call BOARD,openclipart,$(SHARED)/openclipart,--split by_user --set split.test=0.25 --recipes $(wildcard $(ABLATIONS)/*.toml))
	$(call BOARD,mvsa,$(SHARED)/mvsa,--split by_user --set split.test=0.25 --recipes $(MODALITIES) $(ABLATIONS)/amnn_caption.toml $(ABLATIONS)/amnn_image.toml)

# What runs on Ray waits most of the time for one process to start, and what ends at another machine's word for the other machine.
# So three run side by side: the tests on a Ray that they share; those that start what they need, beside them; and lint and what
# needs no Ray. The last two yield to the first a little: more, and they are what is waited for. Each has one
# thread to compute with: they share the cores.
KILLS := tests/distributed/test_tag_kills.py
OF_THEIR_OWN := $(KILLS) tests/end_to_end $(foreach name,extreme_posts leaderboard mlflow_away small_head tune,tests/distributed/test_$(name).py)
LINT := $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports
PYTEST := $(BIN)/python -m pytest -p no:cacheprovider
QUICK := $(LINT) && exec $(PYTEST) tests/models tests/unit tests/tagging tests/browser

test: export OMP_NUM_THREADS = 1
test: setup
	@echo "Side by side: lint, tests/models, tests/unit, tests/tagging, tests/browser; $(OF_THEIR_OWN); both are shown at the end; and the other tests on Ray:"
	@nice -n 5 sh -c '$(QUICK)' > $(VENV)/quick.log 2>&1 & quick=$$!; \
	  nice -n 5 $(PYTEST) $(OF_THEIR_OWN) > $(VENV)/own.log 2>&1 & own=$$!; trap 'kill $$quick $$own' INT TERM; \
	  $(BIN)/python -m pytest tests/distributed $(OF_THEIR_OWN:%=--ignore=%); ray=$$?; \
	  wait $$own; own=$$?; cat $(VENV)/own.log; wait $$quick; quick=$$?; cat $(VENV)/quick.log; exit $$((ray || own || quick))

SOAKED := $(foreach name,test_tag_faults test_tag_ahead test_tag_jointly test_tag_killers test_extreme_posts test_paper_recipes test_autoscaling test_hosts test_image test_train_nodes test_tune,tests/distributed/$(name).py)

# A Ceph gateway of one's own, where Debian's packages and the script that starts it are there: SOAK_CEPH=1 and a gateway at
# SOAK_CEPH_URL do the same.
CEPH := ../shared/tools/ceph_s3.sh

soak: setup
	@if [ -x $(CEPH) ] && command -v radosgw > /dev/null; then folder=$$(mktemp -d) && $(CEPH) start $$folder > /dev/null \
	  && SOAK_CEPH=1 $(BIN)/python -m pytest -v -s tests/distributed/test_tag_ceph.py tests/unit/test_storage_ceph.py; \
	  code=$$?; $(CEPH) stop $$folder; rm -rf $$folder; exit $$code; else echo "no Ceph here: its tests are skipped"; fi
	SOAK_KILLS=30 SOAK_NIGHTS=30 $(BIN)/python -m pytest -v $(KILLS) tests/tagging/test_two_processes.py tests/tagging/test_any_nights.py tests/tagging/test_fenced_table.py $(SOAKED)
	SOAK_AWAY_S=120 $(BIN)/python -m pytest -v tests/distributed/test_mlflow_away.py
	SOAK_README=1 $(BIN)/python -m pytest -v tests/end_to_end/test_readme.py tests/end_to_end/test_docs.py tests/end_to_end/test_mlflow_project.py
	SOAK_SPARK=1 $(BIN)/python -m pytest -v tests/end_to_end/test_served_model.py
	SOAK_USERS=1 $(BIN)/python -m pytest -v tests/distributed/test_users.py

mutants: setup
	nice -n 10 $(BIN)/python tests/mutants/run.py

lint: setup
	$(LINT)

format: setup
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

gpu: setup
	$(BIN)/python -m pytest -rs tests/gpu

bench: setup
	$(BIN)/python -m pytest -s -o python_files='bench_*.py' tests/benchmarks

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Local version labels (+cpu) and CUDA's own packages are left out: they belong to one machine's build of PyTorch. What nodes and
# images need is installed first and frozen, then what development needs on top of it: one lock is a part of the other.
FREEZE = $(VENV)-lock/bin/python -m pip freeze --all \
	| grep -Ev '^(pip|hashtag-recommender|nvidia-|cuda-|triton)\b' | sed 's/+[a-z0-9.]*$$//'

lock:
	rm -rf $(VENV)-lock
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/python -m $(PIP) install -qq --no-compile pip==$(PIP_VERSION)
	$(VENV)-lock/bin/python -m $(PIP) install -q --no-compile -c requirements.lock '.[encoders]'
	{ echo "# What the jobs need and nothing else, for nodes and images: a part of requirements.lock (make lock)."; $(FREEZE); } \
	  > $(VENV)-lock/requirements-runtime.lock
	$(VENV)-lock/bin/python -m $(PIP) install -q --no-compile -c requirements.lock -c $(VENV)-lock/requirements-runtime.lock '.[dev]'
	{ echo "# Exact versions of everything, for Python 3.11 (make lock)."; $(FREEZE); } > $(VENV)-lock/requirements.lock
	mv $(VENV)-lock/requirements.lock $(VENV)-lock/requirements-runtime.lock .
	rm -rf $(VENV)-lock build *.egg-info

clean:
	rm -rf $(VENV) $(VENV)-lock build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache demo
	find hashtag_core jobs tests -name __pycache__ -type d -prune -exec rm -rf {} +
