# Everything happens in .venv; nothing else on the machine is touched.
PYTHON ?= python3
BIN := .venv/bin
IMAGE ?=
MODEL ?= ct-body
FUZZ ?= --seconds 120 --seed 1
CHAOS ?= --seed 1 --tasks 300 --faults 40

.PHONY: demo test lint bench chaos fuzz clean

demo: .venv/installed
	$(BIN)/python examples/mim_demo.py --model "$(MODEL)" $(if $(IMAGE),--image "$(IMAGE)")

# A file's tests share their servers, so that files, not tests, run side by side; long ones come first, as they stand in the folder.
test: .venv/nnunet
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/installed
	$(BIN)/python benchmarks/run.py

chaos: .venv/installed
	PYTHONPATH=tests $(BIN)/python -m chaos $(CHAOS)

fuzz: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[fuzz]'
	PYTHONPATH=tests $(BIN)/python -m fuzz $(FUZZ)

clean:
	rm -rf .venv demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info

.venv/installed: setup.cfg constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed; say make PYTHON=python3.11')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[all,test]'
	touch $@

# One of these asks for torchvision, which inference does not need and which does not load beside a torch for CPUs.
.venv/nnunet: .venv/installed nnunet.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[nnunet]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps -r nnunet.txt
	touch $@
