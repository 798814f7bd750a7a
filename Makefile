# Thin: each target is the pip and python lines that README.md shows beside it.
PYTHON ?= python3
VENV ?= .venv

train: $(VENV)
	$(VENV)/bin/pip install ".[examples]"
	$(VENV)/bin/python examples/train_mnist.py $(ARGS)

test: $(VENV)
	$(VENV)/bin/pip install ".[test]"
	$(VENV)/bin/python -m pytest $(ARGS)

bench: $(VENV)
	$(VENV)/bin/pip install ".[bench]"
	$(VENV)/bin/python -m pytest benchmarks $(ARGS)

bench-peers: $(VENV)
	$(VENV)/bin/pip install ".[bench]"
	$(VENV)/bin/python benchmarks/compare_peers.py $(ARGS)

$(VENV):
	$(PYTHON) -m venv $(VENV)

.PHONY: train test bench bench-peers
