#!/bin/sh
# Verifies the models with spin and prints a table. Exit code 0: every model holds and every mutation fails by the
# property that it must violate; 1: not so; 77: no spin. --all adds the runs that take minutes; with names, those alone.
#
# A row of the lists below: name, model, spin's switches, pan's flags, what must come out ("holds", or the property).
# Rows run side by side, one per core, each in a folder of its own and within 4 GB; the longest comes first.
work=${EPGRAPH_BUILD:-build}/models
mkdir -p "$work" && work=$(cd "$work" && pwd) && cd "$(dirname "$0")" || exit 1
compiler=${CC:-cc}

command -v spin >/dev/null || { echo "spin is not installed (Debian's package spin)" && exit 77; }
command -v cpp >/dev/null || { echo "spin needs cpp, which is not installed" && exit 77; }

quick() {
	cat <<-END
		3-stop             pair  -DRANKS=3,-DCOARSE,-DSTOP        safety    holds
		2-ranks            pair  -DRANKS=2                        safety    holds
		2-ranks-go-on      pair  -DRANKS=2,-DLIVENESS             fair      holds
		2-stop             pair  -DRANKS=2,-DSTOP                 safety    holds
		2-stop-go-on       pair  -DRANKS=2,-DSTOP,-DLIVENESS      fair      holds
		2-abandon          pair  -DRANKS=2,-DABANDON              safety    holds
		2-abandon-stop     pair  -DRANKS=2,-DABANDON,-DSTOP       safety    holds
		2-masks            pair  -DRANKS=2,-DANYTIME              safety    holds
		3-ranks            pair  -DRANKS=3,-DCOARSE               safety    holds
		3-signal-first     pair  -DRANKS=3,-DCOARSE,-DSIGNAL_FIRST,-DCHECKED=2  assert  row_lost
		one-bank           pair  -DONE_BANK,-DCHECKED=1           assert    row_overwritten
		one-bank-signals   pair  -DONE_BANK,-DCHECKED=8           assert    signal_lost
		no-epoch           pair  -DNO_EPOCH,-DCHECKED=8           assert    signal_lost
		no-epoch-rows      pair  -DNO_EPOCH,-DCHECKED=2           assert    row_lost
		signal-first       pair  -DSIGNAL_FIRST,-DCHECKED=2       assert    row_lost
		relaxed            pair  -DRELAXED,-DCHECKED=2            assert    row_lost
		no-empty-signal    pair  -DNO_EMPTY_SIGNAL,-DCHECKED=0    safety    deadlock
		no-empty-wait      pair  -DNO_EMPTY_WAIT,-DCHECKED=8      assert    signal_lost
		no-empty-wait-far  pair  -DNO_EMPTY_WAIT,-DCHECKED=16     assert    ranks_apart
		mask-ignored       pair  -DANYTIME,-DMASK_IGNORED,-DCHECKED=1  assert  row_overwritten
		mask-back          pair  -DANYTIME,-DMASK_BACK,-DCHECKED=1     assert  row_overwritten
		blame              blame -DRANKS=3                        safety    holds
		blame-waiter       blame -DBLAME_WAITER                   assert    live_rank_blamed
		blame-no-grace     blame -DNO_GRACE                       assert    live_rank_blamed
		blame-chain        blame -DCHAIN                          assert    live_rank_blamed
	END
}
long() {
	cat <<-END
		2-masks-abandon    pair  -DRANKS=2,-DANYTIME,-DABANDON    safety    holds
		3-go-on            pair  -DRANKS=3,-DCOARSE,-DEARLY,-DLIVENESS  fair      holds
	END
}

# COLLAPSE halves the memory. pan stops at the first error; -E leaves end states to the runs that are about deadlock.
# A mutation fails soon: its pan takes longer to optimise than to run.
build() { # switches, kind, expected
	spin $(echo "$1" | tr , ' ') -a "$model.pml" >spin.log 2>&1 || { cat spin.log && return 1; }
	case $2 in fair) flags= ;; *) flags=-DSAFETY ;; esac
	case $3 in holds) optimise=-O2 ;; *) optimise=-O0 ;; esac
	$compiler $optimise -w -DCOLLAPSE -DNFAIR=3 $flags -DMEMLIM=4000 -o pan pan.c
}
flags_of() {
	case $1 in fair) echo -a -f ;; assert) echo -E ;; *) echo ;; esac
}

verdict() { # what was found, in one word
	if grep -q 'max search depth too small' log; then echo too-deep
	elif grep -q 'out of memory\|pan: reached -DMEMLIM' log; then echo no-memory
	elif grep -q 'assertion violated' log; then sed -n 's/.*assertion violated *!((*\([a-z_]*\).*/\1/p' log | head -n 1
	elif grep -q 'invalid end state (' log; then echo deadlock
	elif grep -q 'acceptance cycle (' log; then echo starvation
	elif grep -q 'errors: 0$' log; then echo holds
	else echo unknown
	fi
}
numbers() { # states, transitions, depth
	awk '/states, stored/ { s = $1 } / transitions / { t = $1 } /depth reached/ { sub(",", "", $6); d = $6 }
		END { printf "%12.0f %13.0f %9d", s, t, d }' log
}

failed=0
one() { # a row of a list
	name=$1 model=$2 expected=$5
	rm -rf "$work/$name" && mkdir -p "$work/$name"
	start=$(date +%s)
	here=$(pwd)
	cp "$model.pml" "$work/$name/" && cd "$work/$name" || exit 1
	build "$3" "$4" "$5" || { failed=1 && cd "$here" && return; }
	timeout "${EPGRAPH_MODEL_LIMIT:-900}" ./pan -m5000000 $(flags_of "$4") >log 2>&1
	found=$(verdict)
	printf '%-18s %s %5d  %s\n' "$name" "$(numbers)" $(($(date +%s) - start)) "$found"
	if [ "$found" != "$expected" ]; then
		echo "$name: $expected was expected"
		tail -n 40 log
		failed=1
	fi
	cd "$here" || exit 1
}

# One row, for the call of xargs below.
if [ "${1:-}" = --row ]; then
	shift
	one "$@"
	exit "$failed"
fi
all=
[ "${1:-}" = --all ] && all=1 && shift
printf '%-18s %12s %13s %9s %5s  %s\n' model states transitions depth s result
list=$(quick)
[ -n "$all" ] && list=$(long && quick)
[ $# -gt 0 ] && list=$( (long && quick) | grep -E "^($(echo "$*" | tr ' ' '|')) ")
count=$(echo "$list" | wc -l)
export EPGRAPH_BUILD="${work%/models}"
echo "$list" | xargs -P "$(getconf _NPROCESSORS_ONLN)" -L 1 "$PWD/check.sh" --row || failed=1
[ "$failed" -eq 0 ] && echo "$count runs, each as expected"
exit "$failed"
