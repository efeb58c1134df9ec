#!/bin/sh
# Makes sure that what the build needs is there: installs it when root, else says which packages are missing.
# --check only says; --tests adds what the tests need. CC names the compiler (gcc if unset). Debian 12 and Ubuntu 24.04
# use the same names.
set -eu

missing=
need() { # package, test
	if ! sh -c "$2" >/dev/null 2>&1; then missing="$missing $1"; fi
}
header() { printf 'test -e /usr/include/%s || test -e /usr/include/%s/%s' "$1" "$(uname -m)-linux-gnu" "$1"; }

check= tests=
for option in "$@"; do
	case $option in
	--check) check=1 ;;
	--tests) tests=1 ;;
	*) echo "setup.sh: unknown option $option" >&2 && exit 2 ;;
	esac
done

case ${CC:-cc} in
cc | gcc) need gcc 'command -v gcc || command -v cc' ;;
*) need "${CC%% *}" "command -v ${CC%% *}" ;; # Debian's package of clang is named so, and of clang-14
esac
need libc6-dev "$(header argp.h)"
# Other packages ship a cblas.h too, so this one is tried.
need libopenblas-dev "printf '#include <cblas.h>\\nint main(void) { openblas_set_num_threads(1); return 0; }' |
	${CC:-cc} -x c -Werror -o /dev/null - -lopenblas"
need libjansson-dev "$(header jansson.h)"
[ -z "$tests" ] || need libcmocka-dev "$(header cmocka.h)"
# Tests that lack one of these are skipped.
wanted=
[ -z "$tests" ] || command -v spin >/dev/null || wanted=spin
[ -z "$tests" ] || python3 -c 'import numpy' 2>/dev/null || wanted="$wanted python3-numpy"
may_install() { [ -z "$check" ] && [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; }
if [ -z "$missing" ] && { [ -z "$wanted" ] || ! may_install; }; then exit 0; fi

if ! may_install; then
	echo "epgraph needs these packages first:$missing" >&2
	echo "  sudo apt-get install$missing" >&2
	exit 1
fi
echo "Installing:$missing${wanted:+ $wanted}"
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update || [ -z "$missing" ]
# shellcheck disable=SC2086
[ -z "$missing" ] || apt-get -qq install -y --no-install-recommends $missing >/dev/null
for package in $wanted; do
	apt-get -qq install -y --no-install-recommends "$package" >/dev/null ||
		echo "Without $package: tests that need it are skipped"
done
