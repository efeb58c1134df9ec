#!/bin/sh
# `make run`: writes a small checkpoint beside the program and serves 64 requests on 4 ranks with every check on.
set -eu
program=$1
here=$(dirname "$program")
echo "Writing a small random checkpoint ..."
"$program" model --preset tiny "$here/tiny-model"
echo "Serving 64 requests on 4 ranks, with every check (three runs and a serial oracle) ..."
echo
exec "$program" run --model "$here/tiny-model" --ranks 4 --requests 64 --check --json "$here/run.json"
