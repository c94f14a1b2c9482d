//go:build ignore
// The line above keeps the go tool from compiling this; cc skips it.

/*
 * signin: password sign-ins, some at once, each by a process of its own, for as long
 * as is said; prints how many there were and the nanoseconds that all took. The
 * password comes on standard input. Any failure is the end.
 *
 *   signin pam N MS SOCKET USER…             through sekishod's PAM socket, a new
 *                                            connection for each, as pam_sekisho.so
 *   signin krb5 N MS SERVICE KEYTAB USER…    by libkrb5: the exchange with the KDC,
 *                                            and the proof that it knows SERVICE's key
 *   signin ldap N MS URL CAFILE DN…          by libldap: binds on kept connections
 *
 * N processes share the users. Arguments need no percent-encoding.
 *
 *     cc -O2 -o signin signin.c -lkrb5 -lldap -llber
 */
#include <krb5.h>
#include <ldap.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char password[256];

static void die(const char *what, const char *why)
{
	fprintf(stderr, "%s: %s\n", what, why);
	exit(1);
}

/* ask sends a request and reads the answer's lines into buf. */
static void ask(int fd, const char *request, char *buf, size_t size)
{
	size_t len = 0, seen = 0, lines = 1, at = 0;
	ssize_t n = strlen(request);

	if (write(fd, request, n) != n)
		die("asking", "a short write");
	while (seen < lines) {
		n = read(fd, buf + len, size - 1 - len);
		if (n <= 0)
			die("sekishod", "no answer");
		len += n;
		for (; at < len; at++)
			if (buf[at] == '\n' && seen++ == 0) {
				/* "1 OUTCOME COUNT": so many lines follow */
				char *count = memchr(buf + 2, ' ', at);
				lines += count ? strtoul(count, NULL, 10) : 0;
			}
	}
	buf[len] = 0;
}

static struct sockaddr_un pam_addr = {.sun_family = AF_UNIX};

static void pam_once(const char *user)
{
	char out[512], in[4096];
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || connect(fd, (struct sockaddr *)&pam_addr, sizeof pam_addr) != 0)
		die("connecting", "failed");
	snprintf(out, sizeof out, "1 auth user=%s service=bench\n", user);
	ask(fd, out, in, sizeof in);
	if (strstr(in, " reason=prompt") == NULL || strstr(in, "\npassword ") == NULL)
		die("auth", in);
	snprintf(out, sizeof out, "1 answer a1=%s\n", password);
	ask(fd, out, in, sizeof in);
	if (strncmp(in, "1 yes ", 6) != 0 || strstr(in, "\nlogin ") == NULL)
		die("answer", in);
	close(fd);
}

static krb5_context ctx;
static krb5_principal service;
static krb5_keytab keytab;
static krb5_get_init_creds_opt *options;

static void krb5_check(const char *what, krb5_error_code e)
{
	if (e)
		die(what, krb5_get_error_message(ctx, e));
}

static void krb5_begin(const char *name, const char *file)
{
	krb5_check("krb5_init_context", krb5_init_context(&ctx));
	krb5_check(name, krb5_parse_name(ctx, name, &service));
	krb5_check(file, krb5_kt_resolve(ctx, file, &keytab));
	/* what sekishod asks for */
	krb5_check("options", krb5_get_init_creds_opt_alloc(ctx, &options));
	krb5_get_init_creds_opt_set_forwardable(options, 1);
	krb5_get_init_creds_opt_set_tkt_life(options, 10 * 3600);
	krb5_get_init_creds_opt_set_renew_life(options, 7 * 24 * 3600);
}

static void krb5_once(const char *user)
{
	krb5_verify_init_creds_opt strict;
	krb5_principal who;
	krb5_creds creds;

	krb5_verify_init_creds_opt_init(&strict);
	krb5_verify_init_creds_opt_set_ap_req_nofail(&strict, 1);
	krb5_check(user, krb5_parse_name(ctx, user, &who));
	krb5_check("the password", krb5_get_init_creds_password(ctx, &creds, who, password, NULL, NULL, 0, NULL, options));
	krb5_check("the KDC", krb5_verify_init_creds(ctx, &creds, service, keytab, NULL, &strict));
	krb5_free_cred_contents(ctx, &creds);
	krb5_free_principal(ctx, who);
}

static LDAP *ld;

static void ldap_check(const char *what, int e)
{
	if (e != LDAP_SUCCESS)
		die(what, ldap_err2string(e));
}

static void ldap_begin(const char *url, const char *ca)
{
	int version = LDAP_VERSION3, demand = LDAP_OPT_X_TLS_DEMAND;

	ldap_check(ca, ldap_set_option(NULL, LDAP_OPT_X_TLS_CACERTFILE, ca));
	ldap_check("certificates", ldap_set_option(NULL, LDAP_OPT_X_TLS_REQUIRE_CERT, &demand));
	ldap_check(url, ldap_initialize(&ld, url));
	ldap_check("version 3", ldap_set_option(ld, LDAP_OPT_PROTOCOL_VERSION, &version));
}

static void ldap_once(const char *dn)
{
	struct berval secret = {strlen(password), password};

	ldap_check(dn, ldap_sasl_bind_s(ld, dn, LDAP_SASL_SIMPLE, &secret, NULL, NULL, NULL));
}

static int64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* work is one process: once before the others are waited for, then until the end. */
static long work(void (*once)(const char *), const char *user, int ready, int go)
{
	int64_t end;
	long n = 0;

	once(user);
	if (write(ready, "", 1) != 1 || close(ready) || read(go, &end, sizeof end) != sizeof end)
		exit(1);
	for (; now() < end; n++)
		once(user);
	return n;
}

int main(int argc, char **argv)
{
	int n, ready[2], go[2], counts[2], ok = 1, users = 6;
	void (*once)(const char *) = NULL;
	int64_t start, end;
	long sum = 0, one;
	char byte;

	if (argc < 7 || (n = atoi(argv[2])) < 1 || !fgets(password, sizeof password, stdin))
		return 2;
	password[strcspn(password, "\n")] = 0;
	if (strcmp(argv[1], "pam") == 0 && strlen(argv[4]) < sizeof pam_addr.sun_path) {
		strcpy(pam_addr.sun_path, argv[4]);
		once = pam_once;
		users = 5;
	} else if (strcmp(argv[1], "krb5") == 0) {
		once = krb5_once;
	} else if (strcmp(argv[1], "ldap") == 0) {
		once = ldap_once;
	} else {
		return 2;
	}
	if (pipe(ready) || pipe(go) || pipe(counts))
		return 1;
	for (int i = 0; i < n; i++) {
		switch (fork()) {
		case -1:
			return 1;
		case 0:
			close(ready[0]);
			close(go[1]);
			if (once == krb5_once)
				krb5_begin(argv[4], argv[5]);
			if (once == ldap_once)
				ldap_begin(argv[4], argv[5]);
			one = work(once, argv[users + i % (argc - users)], ready[1], go[0]);
			return write(counts[1], &one, sizeof one) != sizeof one;
		}
	}
	close(ready[1]);
	close(counts[1]);
	for (int i = 0; i < n; i++)
		if (read(ready[0], &byte, 1) != 1)
			return 1; /* one of them has said why */
	start = now();
	end = start + atoll(argv[3]) * 1000000;
	for (int i = 0; i < n; i++)
		if (write(go[1], &end, sizeof end) != sizeof end)
			return 1;
	for (int i = 0; i < n && ok; i++) {
		ok = read(counts[0], &one, sizeof one) == sizeof one;
		sum += one;
	}
	end = now();
	while (wait(NULL) > 0)
		;
	if (!ok)
		return 1;
	printf("%ld %lld\n", sum, (long long)(end - start));
	return 0;
}
