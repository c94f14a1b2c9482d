#!/bin/bash
# Proves docker-compose.yml: builds the images, brings the world up, adds people
# with the sekisho command, logs in, takes the world down and up again, and looks
# whether everything was kept.
#
#   testenv/compose.sh
#
# One line "ok  ..." or "FAIL ..." for each thing looked at; exit 0 only when
# all are ok. No image registry is needed, only Debian packages.
#
# It runs a Docker engine of its own in mount, pid and (but for the builds,
# which download packages) network namespaces of its own. One folder and one
# cgroup are used outside of them, and both are removed at the end. All processes
# die with this one, even if it is killed with -9; then the next run removes the
# folder and the cgroup. An engine that already runs here is not touched.
set -euo pipefail
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/go/bin:$PATH

ROOT=$(cd "$(dirname "$0")/.." && pwd)
SELF=$ROOT/testenv/compose.sh
DATA=/var/lib/sekisho-compose
CGROUP=sekisho-compose
LIMIT=900 # seconds for everything after the build of the programs

say() { printf 'compose: %s\n' "$*"; }
die() { printf 'compose: %s\n' "$*" >&2; exit 1; }

# ---------------------------------------------------------------- outside

# clean removes what this or a killed run has left.
clean() {
	local dir ns tries
	if [ -e $DATA/pidns ]; then
		ns=$(cat $DATA/pidns)
		for tries in $(seq 100); do # they have been killed; wait until they are gone
			readlink /proc/[0-9]*/ns/pid 2>/dev/null | grep -qxF "$ns" || break
			[ "$tries" != 100 ] || die "processes of an earlier run do not go away; see: grep -l $CGROUP /proc/*/cgroup"
			sleep 0.1
		done
	fi
	for dir in /sys/fs/cgroup/$CGROUP /sys/fs/cgroup/*/$CGROUP; do
		[ ! -d "$dir" ] || find "$dir" -depth -type d -exec rmdir {} +
	done
	rm -rf $DATA
}

outside() {
	local code=0
	exec 9</var/lib # a lock on a folder leaves no file behind
	flock -n 9 || die "another testenv/compose.sh is running"
	clean
	mkdir -m 0700 $DATA
	trap 'kill -KILL $child 2>/dev/null || true; wait $child 2>/dev/null || true; clean' EXIT
	trap 'exit 130' HUP INT TERM
	child=
	setpriv --pdeathsig KILL timeout --foreground --signal KILL $LIMIT \
		setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --mount-proc -- "$SELF" --inside 9<&- &
	child=$!
	wait $child || code=$?
	[ $code != 137 ] || say "ended by force; the limit is $LIMIT s"
	return $code
}

# ---------------------------------------------------------------- inside

failed=0
started=$EPOCHREALTIME

# result prints a line for the thing whose exit code is $1.
result() {
	local took=$(((${EPOCHREALTIME/./} - ${started/./}) / 1000))
	if [ "$1" = 0 ]; then
		printf 'ok    %s (%d ms)\n' "$2" $took
	else
		printf 'FAIL  %s (%d ms)\n' "$2" $took
		sed 's/^/      /' $DATA/out
		failed=1
	fi
	started=$EPOCHREALTIME
}

# works WHAT COMMAND...: the command succeeds.
works() {
	local what=$1 code=0
	shift
	"$@" >$DATA/out 2>&1 </dev/null || code=$?
	result $code "$what"
}

# must is works for what all else stands on.
must() {
	works "$@"
	[ $failed = 0 ] || exit 1
}

# prints WHAT TEXT COMMAND...: the command succeeds and its output has the line TEXT.
prints() {
	local what=$1 text=$2 code=0
	shift 2
	"$@" >$DATA/out 2>&1 </dev/null || code=$?
	grep -qxF -- "$text" $DATA/out || code=1
	result $code "$what"
}

# refused WHAT TEXT COMMAND...: the command fails and says TEXT.
refused() {
	local what=$1 text=$2 code=0
	shift 2
	if "$@" >$DATA/out 2>&1 </dev/null; then code=1; fi
	grep -qF -- "$text" $DATA/out || code=1
	result $code "$what"
}

# engine COMMAND... starts dockerd by way of COMMAND and waits for it.
engine() {
	"$@" dockerd --config-file $DATA/daemon.json --data-root $DATA/engine --exec-root $DATA/exec \
		--pidfile $DATA/engine.pid --host unix://$DATA/docker.sock --group root \
		--storage-driver overlay2 --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent /$CGROUP \
		--bridge none "${NET[@]}" >>$DATA/engine.log 2>&1 &
	engine=$!
	for _ in $(seq 100); do
		docker version >/dev/null 2>&1 && return
		kill -0 $engine 2>/dev/null || break
		sleep 0.1
	done
	tail -n 20 $DATA/engine.log >&2
	die "the Docker engine does not start; see the lines above"
}

stop_engine() {
	kill -TERM $engine
	wait $engine || true
}

compose() { docker-compose --project-name sekisho --project-directory "$ROOT" --file "$ROOT/docker-compose.yml" "$@"; }
in_broker() { compose exec -T broker "$@"; }
from_client() { compose exec -T client "$@"; }
login() { from_client ssh -o BatchMode=yes -o ConnectTimeout=10 "$@"; }

# kept prints what must be the same after down and up.
kept() {
	docker run --rm --network none --entrypoint sh \
		-v sekisho_web1-ssh:/v/web1/ssh:ro -v sekisho_db1-ssh:/v/db1/ssh:ro \
		-v sekisho_web1-handover:/v/web1/handover:ro -v sekisho_db1-handover:/v/db1/handover:ro \
		sekisho-client:latest -c 'id -u' >/dev/null
}

inside() {
	mount --make-rprivate /
	readlink /proc/self/ns/pid >$DATA/pidns
	export DOCKER_HOST=unix://$DATA/docker.sock DOCKER_CONFIG=$DATA/client COMPOSE_DOCKER_CLI_BUILD=0
	export XTABLES_LOCKFILE=$DATA/xtables.lock # not in /run, it would stay there
	printf '{"deprecated-key-path": "%s/key.json"}\n' $DATA >$DATA/daemon.json
	mkdir $DATA/opt $DATA/opt.work # containerd makes folders in /opt
	mount -t overlay overlay -o lowerdir=/opt,upperdir=$DATA/opt,workdir=$DATA/opt.work /opt

	# The builds download packages: on the machine's own network, but with no
	# bridge, no packet filter and no forwarding, so nothing of it is changed.
	NET=(--iptables=false --ip6tables=false --ip-forward=false --ip-masq=false)
	engine env
	must "debian:bookworm-slim by debootstrap" "$ROOT/testenv/base-image"
	printf 'services:\n' >$DATA/build.yml
	printf '  %s: {build: {network: host}}\n' broker web1 db1 client >>$DATA/build.yml
	must "the images are built" compose --file $DATA/build.yml build --force-rm
	stop_engine

	# From here on nothing has a way out, or in.
	NET=(--ip-masq=false)
	engine unshare --net
	if world; then :; else failed=1; fi
	if [ $failed != 0 ]; then
		compose logs --no-color --tail 60 2>&1 | cut -c 1-400 || true
	fi
	must "taken down" compose down --volumes --timeout 20
	prints "no container is left" 0 sh -c 'docker ps --all --quiet | wc -l'
	stop_engine
	return $failed
}
