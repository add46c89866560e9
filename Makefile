# make demo    a phantom, a head fitted for a minute or two, a bundle, labels and a picture
# make test    the default tests
# Both make .venv first; see CONTRIBUTING.md for the rest.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
RUNS   := runs
# The stamp's name carries a hash of what is installed: another pyproject.toml, another install.
HASH   := $(shell cat pyproject.toml | cksum | cut -d' ' -f1)

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint typecheck schema lowerings clean

help:
	@sed -n 's/^# make /make /p' Makefile

# pip is what venv puts there last: a creation that was stopped half-way is done again.
$(BIN)/pip:
	@echo "== making $(VENV)"
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train-$(HASH): | $(BIN)/pip
	@echo "== installing autosam-deploy with its 'train' extra (about 6 GB, once)"
	$(BIN)/pip install --quiet --editable '.[train]'
	@touch $@

$(VENV)/.dev-$(HASH): | $(BIN)/pip
	@echo "== installing autosam-deploy with its 'dev' extra (about 6 GB, once)"
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@ $(VENV)/.train-$(HASH)

demo: $(VENV)/.train-$(HASH)
	@echo "== 1/5 phantom volumes with labels"
	$(BIN)/autosam-demo data --runs $(RUNS)
	@echo "== 2/5 fit a head on them (one to two minutes on 2 quiet cores)"
	$(BIN)/autosam-train --data $(RUNS)/demo --runs $(RUNS) --head autosam \
	    --random-encoder vit_tiny --recipe reference --epochs 24 --overwrite
	@echo "== 3/5 export head and encoder as one bundle"
	$(BIN)/autosam-export --runs $(RUNS) --head autosam --fp16 --samples $(RUNS)/demo/imagesTr
	@echo "== 4/5 label the held-out volumes"
	$(BIN)/autosam-predict $(RUNS)/autosam/model.autosam -i $(RUNS)/demo/imagesTs \
	    -o $(RUNS)/demo/predicted --overwrite --preview --report $(RUNS)/demo/predicted.json
	@echo "== 5/5 compare with the truth"
	$(BIN)/autosam-evaluate $(RUNS)/demo/predicted $(RUNS)/demo/labelsTs \
	    --classes $(RUNS)/demo/dataset.json --plot $(RUNS)/demo/scores.png
	$(BIN)/autosam-demo files --runs $(RUNS)

test: $(VENV)/.dev-$(HASH)
	@echo "== default tests (make test-all adds slow ones and those on real volumes)"
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow and not data"

test-all: $(VENV)/.dev-$(HASH)
	$(BIN)/pytest

lint: $(VENV)/.dev-$(HASH)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy cannot see the two folders that are mapped into the package, so it gets a wheel's tree.
typecheck: $(VENV)/.dev-$(HASH)
	rm -rf build
	$(BIN)/pip install --quiet --no-deps --target build/typecheck .
	cd build/typecheck && MYPYPATH=. ../../$(BIN)/mypy --config-file ../../pyproject.toml -p autosam_deploy

schema: $(VENV)/.dev-$(HASH)
	$(BIN)/python -m autosam_deploy.bundle.schema

# The table beside the choice of lowerings (export/lowering.py): ten minutes on 2 quiet cores.
lowerings: $(VENV)/.dev-$(HASH)
	for one in explicit masked augmented; do \
	    $(BIN)/autosam-export --untrained --encoder vit_b --head autosam --slim --lowering $$one \
	        -o $(RUNS)/lowerings/$$one.autosam --quiet || exit 1; \
	done
	$(BIN)/autosam-bench bundles $(addprefix $(RUNS)/lowerings/,explicit.autosam masked.autosam augmented.autosam) \
	    --backend onnxruntime,openvino --precision fp32,bf16 --threads 2 --rounds 9 \
	    --out docs/results/lowerings-vit_b.json

clean:
	rm -rf build $(RUNS)
