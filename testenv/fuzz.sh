#!/bin/sh
# Runs each fuzz target for a while, as many at once as there are cores:
#
#   fuzz.sh TIME                   all of them
#   fuzz.sh TIME ./package FuzzX   one
#
# When the time is up in an unlucky moment, the go tool ends a run that has found
# nothing with "context deadline exceeded" (golang/go #75804, mended in Go 1.27). That run is
# done once more; a run that has found something has written its input, and counts.
set -eu
cd "$(dirname "$0")/.."
time=$1
mkdir -p build
if [ $# = 1 ]; then
	testenv/list.sh fuzz >build/fuzz.list
	xargs -n 2 -P "$(nproc)" testenv/fuzz.sh "$time" <build/fuzz.list || { echo "fuzz failed"; exit 1; }
	exit
fi
log=build/fuzz.$$.log
trap 'rm -f "$log"' EXIT
run() { go test -run '^$' -fuzz "^$2\$" -fuzztime "$time" -parallel 1 "$1" </dev/null >"$log" 2>&1; }
echo "fuzz  $2 $3 ($time)"
if ! run "$2" "$3" && { grep -q 'Failing input written' "$log" ||
	! grep -q 'context deadline exceeded' "$log" || ! run "$2" "$3"; }; then
	echo "fuzz  $2 $3 failed:"
	cat "$log"
	exit 1
fi
