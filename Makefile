# The README's two commands, and shortcuts for development. Needs Python 3.11 or newer and pip.
.PHONY: demo test docs figures native lint clean

demo:
	python3 -m venv .venv && .venv/bin/python -m pip install -c constraints.txt '.[all]' && .venv/bin/gmn-opt demo

test:
	python3 -m venv .venv && .venv/bin/python -m pip install -c constraints.txt -e '.[test]' && .venv/bin/python -m pytest -n 2

docs:
	NO_MKDOCS_2_WARNING=1 python -m mkdocs build --strict

figures:
	python -m docs.tools.figures

native:
	python -m gmn_opt.metanet.native.build

lint:
	python -m ruff check . && python -m ruff format --check . && lint-imports && python -m mypy

clean:
	rm -rf .venv dist site .pytest_cache .mypy_cache .ruff_cache gmn_opt/metanet/native/_edge_pass_*
