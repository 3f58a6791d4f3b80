# Thin: each command first makes or refreshes the environment where that is needed (tools/bootstrap.py), then
# calls Python. Without make, on Windows for example: python tools/bootstrap.py -m dori_lite.cli book
PYTHON = python3
PROFILE = quick
RUN = $(PYTHON) tools/bootstrap.py
DORI = $(RUN) -m dori_lite.cli
QUICKLY = not slow and not gpu and not hub
# Two processes share the tests, a file at a time (tests/conftest.py).
SHARED = -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: help book test test-all test-colab-floor test-gpu lint verify-models bench clean

help:
	@echo "make book           run the chapters and build the site (PROFILE=quick)"
	@echo "make test           style, unit tests, every chapter once with tiny counts, the site"
	@echo "make test-all       the same with the counts of quick, the slow tests, and test-colab-floor"
	@echo "make test-colab-floor  chapters and an assignment with the versions that Colab has"
	@echo "make test-gpu       on a machine with CUDA: its tests, and every chapter once"
	@echo "make verify-models  check that the models do what the book says of them"
	@echo "make bench          run every benchmark"
	@echo "make clean          remove what building and testing wrote"
	@echo "An active virtual or conda environment is used; otherwise .venv is made with PYTHON=python3."

book:
	@$(DORI) book --profile $(PROFILE)

lint:
	@$(RUN) -m ruff check .
	@$(RUN) -m ruff format --check .

test: lint
	@DORI_TEST_TINY=1 $(RUN) -m pytest $(SHARED) -m "$(QUICKLY)"

test-all: lint
	@$(RUN) -m pytest $(SHARED) -m "not hub"
	@$(RUN) tools/colab_floor.py

test-colab-floor:
	@$(RUN) tools/colab_floor.py

verify-models:
	@$(DORI) verify-models

test-gpu:
	@$(RUN) -m pytest -m gpu
	@$(RUN) -m pytest tests/test_book.py tests/test_pages.py tests/test_assignments.py

bench:
	@$(DORI) bench

clean:
	rm -rf _build build .pytest_cache .ruff_cache
