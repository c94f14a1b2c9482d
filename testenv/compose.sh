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

# gone tells whether the processes of this or a killed run are, and removes their
# cgroups, which works only then. Those of the containers are in pid namespaces
# below the engine's.
gone() {
	local dir ns
	ns=$(cat $DATA/pidns 2>/dev/null) || ns=
	if [ -n "$ns" ] && readlink /proc/[0-9]*/ns/pid 2>/dev/null | grep -qxF "$ns"; then
		return 1
	fi
	for dir in /sys/fs/cgroup/$CGROUP /sys/fs/cgroup/*/$CGROUP; do
		[ ! -d "$dir" ] || find "$dir" -depth -type d -exec rmdir {} + 2>/dev/null || return 1
	done
}

# clean removes what this or a killed run has left. All its processes have been
# killed, but that takes a moment.
clean() {
	local try
	for try in $(seq 600); do
		if gone; then
			rm -rf $DATA
			return
		fi
		sleep 0.1
	done
	die "processes of an earlier run do not go away; see /sys/fs/cgroup/*/$CGROUP/cgroup.procs"
}

outside() {
	local code=0
	exec 9</var/lib # a lock on a folder leaves no file behind
	flock -n 9 || die "another testenv/compose.sh is running"
	clean
	mkdir -m 0700 $DATA
	child=
	trap 'kill -KILL $child 2>/dev/null || true; wait $child 2>/dev/null || true; clean' EXIT
	trap 'exit 130' HUP INT TERM
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
	local before=$failed
	failed=0
	works "$@"
	[ $failed = 0 ] || exit 1
	failed=$before
}

# prints WHAT TEXT COMMAND...: the command succeeds and its output has the line TEXT.
prints() {
	local what=$1 text=$2 code=0
	shift 2
	"$@" >$DATA/out 2>&1 </dev/null || code=$?
	grep -qxF -- "$text" $DATA/out || code=1
	result $code "$what"
}

# comes WHAT COMMAND...: the command succeeds, after a while.
comes() {
	local what=$1 code=0
	shift
	for _ in $(seq 300); do
		code=0
		"$@" >$DATA/out 2>&1 </dev/null || code=$?
		[ $code != 0 ] || break
		sleep 0.2
	done
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
	for _ in $(seq 600); do
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
add_user() { from_client cat "keys/$1.pub" | in_broker sekisho user add "$1" --key -; }
login() { from_client ssh -o BatchMode=yes -o ConnectTimeout=30 "$@"; }

# kept FILE writes what must be the same after down and up: secrets by their hashes.
kept() {
	local host
	{
		for host in web1 db1; do
			compose exec -T $host sha256sum /srv/ssh/ssh_host_ed25519_key /srv/handover/ca.crt /srv/handover/password || return
		done
		compose exec -T --user sekisho broker sh -c 'cd /var/lib/sekisho/realm && sha256sum stash passwd.secret kdc.secret tls/ca.*' || return
		in_broker sh -c 'set -e; for what in user group host rule; do sekisho $what ls --json; done; sekisho key ls alice --json' || return
	} >"$1"
}

logs() {
	trap - EXIT
	echo "--- the last lines of the containers' logs"
	compose logs --no-color --tail 60 2>&1 | cut -c 1-400 || true
}

# confined HOST: what docs/compose.md says of every container.
confined() {
	compose exec -T "$1" bash -c '
		! grep docker.sock /proc/self/mountinfo &&
		! (: >/usr/new) 2>/dev/null &&
		grep -qx "NoNewPrivs:[[:space:]]*1" /proc/self/status'
}

# world is what is proved, with the engine running.
world() {
	local key host
	must "docker-compose up: all four are healthy" compose up --detach --no-build
	for host in broker web1 db1 client; do
		works "$host: no docker socket, nothing to write outside its volumes, no new privileges" confined $host
	done
	refused "nothing leaves the network, not even to the machine" "No route to host" from_client bash -c ': >/dev/tcp/198.18.5.1/22'

	# People, hosts and a rule: alice may log in to web1, bob to nothing.
	for key in alice bob; do
		must "$key's key is made in client" from_client sh -c "mkdir -p keys && ssh-keygen -q -t ed25519 -N '' -C $key@client -f keys/$key"
		must "sekisho user add $key" add_user $key
	done
	must "sekisho group add ops" in_broker sekisho group add ops --add alice
	must "sekisho host add web1" in_broker sekisho host add web1 --addr 198.18.5.3
	must "sekisho host add db1" in_broker sekisho host add db1 --addr 198.18.5.4
	must "sekisho rule add ops-on-web1" in_broker sekisho rule add ops-on-web1 --subject group:ops --door keys --target host:web1

	logins
	must "what must be kept is read" kept $DATA/before
	compose ps --quiet >$DATA/before.ids
	must "docker-compose down" compose down --timeout 20
	must "docker-compose up again" compose up --detach --no-build
	must "what must be kept is read again" kept $DATA/after
	compose ps --quiet >$DATA/after.ids
	works "the containers are new ones" sh -c "! grep -qxFf $DATA/before.ids $DATA/after.ids"
	works "host keys, authority, passwords, users and rules are the same" diff $DATA/before $DATA/after
	logins
}

logins() {
	comes "web1 hears who may log in" login alice@web1 true
	prints "alice logs in to web1 by the key from the directory" "alice web1" login alice@web1 'echo $(id -un) $(hostname)'
	works "alice gets a terminal and a home there" login -tt alice@web1 'test -t 1 && cd && touch here && test -O here'
	refused "alice reads no secret of web1" "password: Permission denied" login alice@web1 'cat /srv/handover/password'
	refused "alice is refused at db1" "Permission denied" login alice@db1 true
	refused "bob is refused at web1" "Permission denied" login bob@web1 true
	refused "somebody unknown is refused at web1" "Permission denied" login -i keys/alice mallory@web1 true
	refused "why says that no rule lets bob in" "rule" in_broker sekisho why bob keys web1
	prints "the password of web1 reads no secret attribute" 0 in_broker sh -c \
		'umask 077; tr -d "\n" </srv/web1/password >/tmp/password &&
		LDAPTLS_CACERT=/run/sekisho/ca.crt ldapsearch -LLL -x -D cn=web1,ou=services,dc=sekisho,dc=internal -y /tmp/password \
			-b dc=sekisho,dc=internal -H ldaps://broker "(uid=alice)" uid userPassword krbPrincipalKey >/tmp/seen &&
		grep -q "^uid: alice" /tmp/seen && grep -c -e userPassword -e krbPrincipalKey /tmp/seen; rm -f /tmp/password /tmp/seen'
}

inside() {
	mount --make-rprivate /
	readlink /proc/self/ns/pid >$DATA/pidns
	export DOCKER_HOST=unix://$DATA/docker.sock DOCKER_CONFIG=$DATA/client COMPOSE_DOCKER_CLI_BUILD=0
	echo '{}' >$DATA/daemon.json # the machine's own settings are not for this engine
	local dir
	for dir in etc opt run; do # dockerd, containerd and iptables leave files there
		mkdir $DATA/$dir $DATA/$dir.work
		mount -t overlay overlay -o lowerdir=/$dir,upperdir=$DATA/$dir,workdir=$DATA/$dir.work /$dir
	done

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
	trap '[ $failed = 0 ] || logs' EXIT
	world
	[ $failed = 0 ] || logs
	trap - EXIT
	must "taken down" compose down --volumes --timeout 20
	prints "no container is left" 0 sh -c 'docker ps --all --quiet | wc -l'
	stop_engine
	return $failed
}

case ${1-} in
--inside) inside; exit ;;
--outside) outside; exit ;;
'') ;;
*) die "takes no arguments" ;;
esac
[ "$(uname -s)" = Linux ] || die "needs Linux"
"$ROOT/testenv/packages.sh" docker
make -C "$ROOT" --no-print-directory build
if [ "$(id -u)" != 0 ]; then
	if [ -t 0 ]; then ask=; else ask=-n; fi
	exec sudo $ask -- "$SELF" --outside
fi
outside
