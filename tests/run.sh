#!/bin/sh
# Runs each test program with a time limit: 0 passed, 77 skipped (its last line says why), anything else failed.
# A failing program's output is shown whole. The last line counts. EPGRAPH_TEST_WRAP is a command to run each under;
# with EPGRAPH_TEST_ALL_MAY_SKIP it is no failure that none could run.
build=$1
shift
limit=${EPGRAPH_TEST_LIMIT:-300}
passed=0 failed=0 skipped=0
mkdir -p "$build/logs"
EPGRAPH_BUILD=$build
export EPGRAPH_BUILD
for test in "$@"; do
	name=${test#"$build/tests/"}
	log=$build/logs/$(echo "$name" | tr / _).log
	start=$(date +%s)
	# shellcheck disable=SC2086
	timeout -k 5 "$limit" ${EPGRAPH_TEST_WRAP:-} "$test" >"$log" 2>&1
	code=$?
	seconds=$(($(date +%s) - start))
	case $code in
	0) passed=$((passed + 1)) && echo "ok    $name (${seconds} s)" ;;
	77) skipped=$((skipped + 1)) && echo "skip  $name: $(tail -n 1 "$log")" ;;
	124 | 137) failed=$((failed + 1)) && cat "$log" && echo "FAIL  $name: stopped after $limit s" ;;
	*) failed=$((failed + 1)) && cat "$log" && echo "FAIL  $name: exit code $code" ;;
	esac
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 -o -n "${EPGRAPH_TEST_ALL_MAY_SKIP:-}" ]
