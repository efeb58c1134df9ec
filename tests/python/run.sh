#!/bin/sh
# The Python package's tests, tests/python/test_*.py, against the library in EPGRAPH_BUILD, by each interpreter that
# PYTHON lists. Exit code 0: passed, 1: failed, 77: one is no Python of 3.9 or later. Cases that need numpy are skipped,
# by name, where it is not installed.
cd "$(dirname "$0")/../.." || exit 1
build=$(cd "${EPGRAPH_BUILD:-build}" && pwd) || exit 1
set -- "$build"/libepgraph.so.*
for python in ${PYTHON:-python3}; do
	"$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null ||
		{ echo "there is no Python of 3.9 or later ($python)" && exit 77; }
	EPGRAPH_LIBRARY=$1 PYTHONPATH=$(pwd)/python PYTHONDONTWRITEBYTECODE=1 \
		"$python" -W error -m unittest discover -v -s tests/python -t tests/python || exit 1
done
