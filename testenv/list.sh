#!/bin/sh
# Lists what the Makefile works on:
#   list.sh go      Go files
#   list.sh race    packages with concurrency that have tests
#   list.sh fuzz    one "./package FuzzName" a line
set -eu
cd "$(dirname "$0")/.."

gofiles() { find . -name '*.go' -not -path './build/*' -not -path './.git/*' | sort; }

case ${1-} in
go) gofiles ;;
race)
	# The programs that a test starts are built with -race, too (testenv/programs.go).
	# Not these: testenv/outside builds its own; in testenv/signon are crowds of 2,000,
	# for which such a program is too slow, and testenv/endtoend and leave have its doors.
	gofiles | xargs grep -lE '^[[:space:]]*go (func|[a-zA-Z_.]+\()|"sync"|"sync/atomic"' | xargs -n1 dirname | sort -u |
		grep -vE '^./testenv/(outside|signon)$' |
		while read -r dir; do
			for f in "$dir"/*_test.go; do
				[ ! -e "$f" ] || { echo "$dir"; break; }
			done
		done ;;
fuzz)
	gofiles | grep '_test\.go$' | xargs grep -oE '^func Fuzz[A-Za-z0-9_]*' /dev/null |
		sed -E 's,^(.*)/[^/]*:func (.*)$,\1 \2,' | sort -u ;;
*) echo "usage: list.sh go|race|fuzz" >&2; exit 2 ;;
esac
