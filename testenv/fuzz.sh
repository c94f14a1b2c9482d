#!/bin/sh
# Runs each fuzz target for a while: fuzz.sh TIME
#
# When the time is up in an unlucky moment, the go tool ends a run that has found
# nothing with "context deadline exceeded" (golang/go #75804, mended in Go 1.27). That run is
# done once more; a run that has found something has written its input, and counts.
set -eu
cd "$(dirname "$0")/.."
mkdir -p build
testenv/list.sh fuzz >build/fuzz.list
run() { go test -run '^$' -fuzz "^$2\$" -fuzztime "$time" "$1" </dev/null >build/fuzz.log 2>&1; }
time=$1 failed=
while read -r dir name; do
	echo "fuzz  $dir $name ($time)"
	if ! run "$dir" "$name" && { grep -q 'Failing input written' build/fuzz.log ||
		! grep -q 'context deadline exceeded' build/fuzz.log || ! run "$dir" "$name"; }; then
		cat build/fuzz.log
		failed="$failed $name"
	fi
done <build/fuzz.list
[ -z "$failed" ] || { echo "fuzz failed:$failed"; exit 1; }
