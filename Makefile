# Every target makes .venv by itself when the lock has changed; nothing is installed outside this folder.
# `make setup PYTHON=/path/to/python3.11` names the interpreter, PIP_ARGS=... adds options for pip, see CONTRIBUTING.md.

PYTHON ?= python3.11
PIP_ARGS ?=
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
OUT := out
TRAINING := $(OUT)/training
HEADS ?= 3064
TEST_PROCESSES ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all test-window lint extension repository bench photo-bench rig-bench endurance expressions train lock clean

help: ## Show this text
	@echo "Headcast: one portrait photo becomes a textured 360-degree head in Blender."
	@echo
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20

setup: $(READY) ## Make .venv from requirements/lock.txt (the other targets do it when needed)

# The stamp is written last, so a broken installation is tried again. Other Pythons of the name 3.11 are tried in turn:
# bpy has wheels for 3.11 only.
$(READY): requirements/lock.txt
	@found=; \
	for candidate in "$(PYTHON)" python3.11 python3 python; do \
	    if "$$candidate" -c 'import sys, venv; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then \
	        found=$$candidate; break; \
	    fi; \
	done; \
	if [ -z "$$found" ]; then \
	    echo "error: Python 3.11 with its venv module was not found (tried $(PYTHON), python3.11, python3, python)."; \
	    echo "hint: install it (apt install python3.11-venv, brew install python@3.11, python.org), or name it:"; \
	    echo "hint: make setup PYTHON=/path/to/python3.11"; \
	    exit 1; \
	fi; \
	echo "Setting up $(VENV) with $$found: several hundred MB on the first run."; \
	"$$found" -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r requirements/lock.txt
	@touch $(READY)

demo: extension ## Reconstruct a head through the add-on: out/demo/head.blend, head.glb and a Cycles picture
	$(RUN) tests/blender/demo.py

test: $(READY) ## Run the tests, lint and types among them
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(TEST_PROCESSES) --dist loadfile -m "not thorough" $(PYTEST_ARGS)

test-all: $(READY) ## The same with the tests that take minutes
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(TEST_PROCESSES) --dist loadfile $(PYTEST_ARGS)

test-window: $(READY) ## Click Reconstruct Head in a real Blender window (Linux, root, mmdebstrap; 1.2 GB once)
	$(RUN) -m tests.window --out $(OUT)/window $(WINDOW_ARGS)

lint: $(READY) ## Check style (ruff) and types (mypy) only
	$(RUN) -m tests.lint

extension: $(READY) ## Build and validate the extension zip; EXTENSION_ARGS="--platform linux-x64" packs the engine too
	$(RUN) -m wheels extension --out $(OUT) $(EXTENSION_ARGS)

repository: extension ## Make $(OUT) a static extension repository of the zips in it, for Blender to subscribe to
	$(RUN) -m wheels repository $(OUT)

bench: $(READY) ## Time a warm reconstruction, and PanoHead's sizes; BENCH_ARGS="--repeat 10" shows memory growth
	$(RUN) -m tests.bench $(BENCH_ARGS)
	$(RUN) -m tests.surface_bench
	$(RUN) -m tests.full_size_bench $(FULL_SIZE_ARGS)

endurance: $(READY) ## 200 heads in one worker, 1,000 hostile files through the command line: memory, seconds (an hour and more)
	$(RUN) -m tests.worker_bench
	$(RUN) -m tests.hostile_bench

photo-bench: $(READY) ## Compare heads with their photos: make photo-bench PHOTOS=FOLDER [PHOTO_ARGS="--identity WEIGHTS --out DIR"]
	@test -n "$(PHOTOS)" || { echo "error: the photo bench needs a folder with portraits."; \
	    echo "hint: make photo-bench PHOTOS=/path/to/photos"; exit 1; }
	$(RUN) -m tests.photo_bench $(PHOTOS) $(PHOTO_ARGS)

expressions: extension ## Render twelve expressions of a rig in Cycles: out/demo/expressions.jpg
	$(RUN) tests/blender/expression_sheet.py $(DEMO_ARGS)

rig-bench: $(READY) ## Compare rigs with scans and photos: make rig-bench PHOTOS=FOLDER [RIG_ARGS="--identity WEIGHTS --out DIR"]
	@test -n "$(PHOTOS)" || { echo "error: the rig bench needs a folder with portraits."; \
	    echo "hint: make rig-bench PHOTOS=/path/to/photos"; exit 1; }
	$(RUN) -m tests.rig_bench $(PHOTOS) $(RIG_ARGS)

# Each step goes on where it was stopped: interrupt it and call it again.
train: $(READY) ## Train the starter model (hours): make train ASSETS=FOLDER [HEADS=3064], see CONTRIBUTING.md
	@test -n "$(ASSETS)" || { echo "error: training needs the assets of the synthetic heads."; \
	    echo "hint: make train ASSETS=/path/to/assets"; exit 1; }
	$(RUN) -m training.heads build --assets $(ASSETS) --out $(TRAINING)/heads --seeds 0:$(HEADS)
	$(RUN) -m training.train_generator --heads $(TRAINING)/heads --run $(TRAINING)/generator
	$(RUN) -m training.train_occluded --heads $(TRAINING)/heads --generator $(TRAINING)/generator --run $(TRAINING)/occluded
	$(RUN) -m training.export --generator $(TRAINING)/generator --occluded $(TRAINING)/occluded \
	    --out $(TRAINING)/starter.safetensors
	$(RUN) -m training.evaluate --heads $(TRAINING)/heads --model $(TRAINING)/starter.safetensors --out $(TRAINING)/evaluation

# setuptools is needed by torch, though pip-tools calls it unsafe; the CPU wheel's "+cpu" would bind everybody to one index.
lock: $(READY) ## Resolve requirements/*.in anew into requirements/lock.txt
	$(RUN) -m pip install --quiet --disable-pip-version-check pip-tools
	$(RUN) -m piptools compile --quiet --upgrade --allow-unsafe --strip-extras --no-header --no-annotate --no-emit-options \
	    --no-emit-find-links --no-emit-index-url --no-emit-trusted-host --output-file $(VENV)/lock.txt requirements/*.in
	(grep '^#' requirements/lock.txt; sed -E -e '/^(#|$$)/d' -e 's/^(torch==[0-9.]+)\+cpu/\1/' $(VENV)/lock.txt) > $(VENV)/lock.new
	mv $(VENV)/lock.new requirements/lock.txt

clean: ## Remove .venv, out and caches
	rm -rf $(VENV) $(OUT) .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
