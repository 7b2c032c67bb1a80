# The README's two commands, and shortcuts for development. Needs Python 3.11 or newer and pip.
.PHONY: demo test docs figures native lint release clean

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

# All that is uploaded, in dist/, and checked: source, a pure wheel for every platform, and on Linux a
# manylinux wheel with the native code, which pip prefers. Needs '.[dev]'.
release:
	rm -rf dist
	python -m build --sdist
	GMN_OPT_NATIVE=0 python -m build --wheel
	python -m build --wheel --outdir dist/native
	if [ "$$(uname)" = Linux ]; then python -m auditwheel repair -w dist dist/native/*.whl; fi
	rm -rf dist/native
	for wheel in dist/*.whl; do python .ci/check_wheel.py $$wheel || exit 1; done
	python -m twine check --strict dist/*

clean:
	rm -rf .venv dist site .pytest_cache .mypy_cache .ruff_cache gmn_opt/metanet/native/_edge_pass_*
