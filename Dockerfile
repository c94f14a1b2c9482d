# The images of docker-compose.yml: broker, host and client. docs/compose.md
# tells how to use them. The programs are built outside, by "make build"
# (static; sekisho-pam, which is not, is no part of it), so that no image with a Go toolchain is needed.
#
# Where no image registry is reachable, testenv/base-image makes the base.

FROM debian:bookworm-slim AS base
ARG DEBIAN_FRONTEND=noninteractive
# Fixed numbers: the volumes outlive the images.
RUN groupadd --gid 898 sekisho \
 && useradd --uid 898 --gid sekisho --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin sekisho \
 && groupadd --gid 899 sekisho-keys \
 && useradd --uid 899 --gid sekisho-keys --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin sekisho-keys

# What is copied, with the modes it must have whatever the checkout's are.
FROM base AS files
COPY build/bin/ testenv/compose/ /files/
RUN cd /files && chmod 0644 * && chmod 0755 sekishod sekisho sekisho-keys broker make-account host

# The directory and the KDC, with the command line to fill them.
FROM base AS broker
RUN echo slapd slapd/no_configuration boolean true | debconf-set-selections \
 && apt-get update \
 && apt-get install -y --no-install-recommends slapd slapd-contrib ldap-utils libsasl2-modules krb5-kdc krb5-kdc-ldap krb5-otp krb5-pkinit \
 && rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log
COPY --from=files /files/sekishod /files/sekisho /usr/local/bin/
COPY --from=files /files/broker /files/make-account /usr/local/lib/sekisho/
COPY --from=files /files/broker.toml /etc/sekisho/sekishod.toml
ENTRYPOINT ["/usr/local/lib/sekisho/broker"]

# A server to log in to: Debian's sshd, and a sekishod that follows the broker.
FROM base AS host
RUN apt-get update \
 && apt-get install -y --no-install-recommends openssh-server libnss-systemd \
 && rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log /etc/ssh/ssh_host_*
COPY --from=files /files/sekishod /files/sekisho /usr/local/bin/
COPY --from=files /files/sekisho-keys /files/host /usr/local/lib/sekisho/
COPY --from=files /files/sshd_config /etc/ssh/sshd_config
COPY --from=files /files/sshd.pam /etc/pam.d/sshd
COPY --from=files /files/nsswitch.conf /etc/nsswitch.conf
ENTRYPOINT ["/usr/local/lib/sekisho/host"]

# Somewhere to log in from, as an ordinary user.
FROM base AS client
RUN apt-get update \
 && apt-get install -y --no-install-recommends openssh-client \
 && rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log \
 && useradd --uid 1000 --create-home --shell /bin/bash visitor
COPY --from=files /files/ssh_config /etc/ssh/ssh_config
USER visitor
WORKDIR /home/visitor
ENTRYPOINT ["sleep", "infinity"]
