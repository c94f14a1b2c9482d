#!/bin/sh
# Installs the Debian 12 packages that the tests, the benchmarks and the
# container demo need, and changes nothing else.
#
#   testenv/packages.sh [base|bench|docker]...      (default: base)
#
# Only what is missing is installed; when nothing is, nothing is touched and no
# privilege is needed. No daemon is started, now or at the next boot: a
# policy-rc.d refuses while dpkg runs, and the units of newly installed packages
# are disabled. /etc/nsswitch.conf and /etc/pam.d, which some of these packages
# edit, are put back as they were. If this script is killed, its next run first
# undoes what was left half done.
#
# chrony cannot be installed without removing systemd-timesyncd: its files are
# unpacked to build/unpacked/chrony instead, beside their libraries in base.
set -eu

BASE="
 slapd slapd-contrib ldap-utils libsasl2-modules libsasl2-modules-gssapi-mit
 krb5-kdc krb5-kdc-ldap krb5-admin-server krb5-otp krb5-pkinit krb5-user
 openssh-server openssh-client libnss-systemd
 iproute2 iputils-ping netbase util-linux procps
 faketime oathtool zxing-cpp-tools openssl ca-certificates
 libpam0g-dev pamtester sudo libkrb5-dev curl valgrind
 libcap2 libedit2 libgnutls30 libnettle8 libseccomp2
 git make gcc libc6-dev"
UNPACKED="chrony"                   # with base; what it needs stands above
BENCH="sssd-ldap sssd-krb5 sssd-common sssd-tools libnss-sss libpam-sss libpam-krb5 ldap-utils slapd
 pamtester libkrb5-dev libldap-dev gcc libc6-dev"
DOCKER="docker.io docker-compose debootstrap iptables ca-certificates"

ROOT=$(cd "$(dirname "$0")/.." && pwd)
SAVE=/var/cache/sekisho-packages    # what must be put back; exists only while we work
POLICY=/usr/sbin/policy-rc.d
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C DEBIAN_FRONTEND=noninteractive
export PATH LC_ALL DEBIAN_FRONTEND

say() { printf 'packages: %s\n' "$*"; }
die() { printf 'packages: %s\n' "$*" >&2; exit 1; }

[ $# -gt 0 ] || set -- base
want= unpack=
for set in "$@"; do
	case $set in
	base) want="$want $BASE" unpack=$UNPACKED ;;
	bench) want="$want $BENCH" ;;
	docker) want="$want $DOCKER" ;;
	*) die "no set called \"$set\"; there are base, bench and docker" ;;
	esac
done
command -v dpkg-query >/dev/null || die "this is not Debian: install by hand:$(echo $want)"

# missing prints those of its arguments that are not fully installed.
missing() {
	for p in "$@"; do
		[ "$(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || echo "$p"
	done | sort -u
}

# packed prints those of its arguments that are not unpacked.
packed() {
	for p in "$@"; do
		[ -e "$ROOT/build/unpacked/$p" ] || echo "$p"
	done
}

need=$(missing $want)
more=$(packed $unpack)
if [ -z "$need$more" ] && [ ! -e $SAVE ]; then
	say "all there ($*)"
	exit 0
fi

if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || die "root is needed to install: $(echo $need $more); run testenv/packages.sh $* as root"
	if [ -t 0 ]; then ask=; else ask=-n; fi
	exec sudo $ask -- "$0" "$@"
fi

# restore puts back what $SAVE remembers and forgets it.
restore() {
	[ -e $SAVE ] || return 0
	if [ -e $SAVE/complete ]; then
		if [ -e $SAVE/nsswitch.conf ] && ! cmp -s $SAVE/nsswitch.conf /etc/nsswitch.conf; then
			say "putting /etc/nsswitch.conf back"
			cp -a $SAVE/nsswitch.conf /etc/nsswitch.conf
		fi
		# Files of new packages stay (dpkg owns them); edited ones go back,
		# and so does pam-auth-update's memory of them.
		for f in $SAVE/pam.d/*; do
			[ -e "$f" ] || continue
			cmp -s "$f" "/etc/pam.d/${f##*/}" && continue
			say "putting /etc/pam.d/${f##*/} back"
			cp -a "$f" /etc/pam.d/
		done
		[ ! -d $SAVE/pam ] || cp -a $SAVE/pam/. /var/lib/pam/
		# Units of packages that came since.
		installed | comm -13 $SAVE/installed - | while read -r p; do silence "$p"; done
		if [ -e $SAVE/policy-rc.d ]; then
			cp -a $SAVE/policy-rc.d $POLICY
		else
			rm -f $POLICY
		fi
	fi
	rm -rf $SAVE
}

installed() { dpkg-query -W -f='${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p' | sort -u; }

# silence keeps the services of package $1 from starting at the next boot.
# deb-systemd-helper remembers it, so that an upgrade does not enable them again.
silence() {
	dpkg -L "$1" | while read -r f; do
		case $f in
		*/systemd/system/*@.*) ;;
		*/systemd/system/*.service | */systemd/system/*.socket | */systemd/system/*.timer | */systemd/system/*.path)
			DPKG_MAINTSCRIPT_PACKAGE=$1 deb-systemd-helper disable "${f##*/}" >/dev/null || say "could not disable ${f##*/}" ;;
		/etc/init.d/*)
			update-rc.d "${f##*/}" disable >/dev/null 2>&1 || say "could not disable ${f##*/}" ;;
		esac
	done
}

exec 9>/run/sekisho-packages.lock
flock -w 900 9 || die "another packages.sh has been running for 15 minutes (/run/sekisho-packages.lock)"
restore                      # what a killed run left
need=$(missing $want)        # another run may have done it meanwhile
more=$(packed $unpack)

umask 022
apt() { apt-get -q -o DPkg::Lock::Timeout=600 -o APT::Acquire::Retries=3 -o Dpkg::Use-Pty=0 "$@" 9>&-; }
update() { say "apt-get update"; apt update >/dev/null || die "apt-get update failed; see the lines above"; }

# unpack puts the files of package $1 below build/unpacked, all at once; apt-get
# has checked the package's sum. They belong to whom the module belongs.
unpack() {
	to=$ROOT/build/unpacked
	for d in "$ROOT/build" "$to"; do
		[ -d "$d" ] || { mkdir "$d" && chown --reference="$ROOT" "$d"; }
	done
	rm -rf "$to/.$1"
	mkdir "$to/.$1"
	mkdir "$to/.$1/deb" "$to/.$1/files"
	fetch "$1" "$to/.$1/deb" || { update; fetch "$1" "$to/.$1/deb"; } || {
		cat "$to/.$1/log" >&2
		die "apt-get download $1 failed"
	}
	dpkg-deb -x "$to/.$1"/deb/*.deb "$to/.$1/files"
	chown -R --reference="$ROOT" "$to/.$1"
	mv "$to/.$1/files" "$to/$1"
	rm -rf "$to/.$1"
	say "unpacked $1 to build/unpacked/$1"
}
fetch() { (cd "$2" && apt download "$1" >../log 2>&1); }
for p in $more; do unpack "$p"; done

if [ -z "$need" ]; then
	say "all there ($*)"
	exit 0
fi
say "installing: $(echo $need)"

mkdir -p $SAVE
chmod 700 $SAVE
installed >$SAVE/installed
[ ! -e /etc/nsswitch.conf ] || cp -a /etc/nsswitch.conf $SAVE/
[ ! -d /etc/pam.d ] || cp -a /etc/pam.d $SAVE/
[ ! -d /var/lib/pam ] || cp -a /var/lib/pam $SAVE/
[ ! -e $POLICY ] || cp -a $POLICY $SAVE/
touch $SAVE/complete
trap restore EXIT
trap 'exit 1' HUP INT TERM
printf '#!/bin/sh\nexit 101\n' >$POLICY
chmod 755 $POLICY

case " $(echo $need) " in
*" slapd "*) echo "slapd slapd/no_configuration boolean true" | debconf-set-selections ;;
esac

known() { apt-cache policy $need 2>/dev/null | grep -c 'Candidate: [^(]' || true; }

[ "$(known)" = "$(echo $need | wc -w)" ] || update
log=$SAVE/apt.log
if ! apt install -y --no-install-recommends $need >"$log" 2>&1; then
	update               # lists older than the mirror: names that no longer exist there
	if ! apt install -y --no-install-recommends $need >"$log" 2>&1; then
		tail -n 40 "$log" >&2
		die "apt-get install failed"
	fi
fi
still=$(missing $need)
[ -z "$still" ] || die "still missing after the installation: $(echo $still)"
say "installed $(installed | comm -13 $SAVE/installed - | wc -l) packages"
