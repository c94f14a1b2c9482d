/* host runs PAM calls as its arguments say, one after the other, and prints what
 * happens, a line for each event:
 *
 *   batch N            the conversation was called with N messages
 *   msg STYLE TEXT     one of them
 *   rc CALL CODE       a call of PAM returned
 *   env NAME=VALUE     after the argument env
 *   fd N TARGET        after the argument fds
 *   umask, sigpipe     after the arguments of that name with ?
 *   found N            after grep=
 *   log PRIORITY TEXT  after the argument logs
 *
 * See run() for the arguments. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <syslog.h>
#include <unistd.h>

#include <security/pam_appl.h>
#include <security/pam_misc.h>

static int out;
static char **args;
static int nargs;

struct host {
	pam_handle_t *pamh;
	char *replies[64];  /* NULL: none */
	int have, used;
	int fail;           /* what the next conversation returns */
	const char *rename; /* PAM_USER becomes this in the next conversation */
	const char *confdir, *service, *user;
	bool quiet;
};

static void say(const struct host *h, const char *format, ...)
{
	va_list ap;
	if (h->quiet)
		return;
	va_start(ap, format);
	vdprintf(out, format, ap);
	va_end(ap);
}

static bool logs;

/* What libpam would hand to syslogd comes here instead. */
static void logged(int priority, const char *format, va_list ap)
{
	char line[4096];
	int error = errno;
	vsnprintf(line, sizeof line, format, ap);
	errno = error;
	if (logs)
		dprintf(out, "log %d %s\n", priority & 7, line);
	explicit_bzero(line, sizeof line);
}

void syslog(int priority, const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	logged(priority, format, ap);
	va_end(ap);
}

void __syslog_chk(int priority, int flag, const char *format, ...)
{
	va_list ap;
	(void)flag;
	va_start(ap, format);
	logged(priority, format, ap);
	va_end(ap);
}

static int talk(int n, const struct pam_message **m, struct pam_response **r, void *data)
{
	struct host *h = data;
	int fail = h->fail;
	say(h, "batch %d\n", n);
	for (int i = 0; i < n; i++) {
		if (m[i] != &(*m)[i]) /* programs of other systems read one array */
			say(h, "scattered\n");
		say(h, "msg %d %s\n", m[i]->msg_style, m[i]->msg);
	}
	if (h->rename != NULL)
		pam_set_item(h->pamh, PAM_USER, h->rename);
	h->rename = NULL;
	h->fail = 0;
	if (fail != 0)
		return fail;
	struct pam_response *resp = calloc((size_t)n, sizeof *resp);
	for (int i = 0; i < n; i++) {
		if (m[i]->msg_style != PAM_PROMPT_ECHO_OFF && m[i]->msg_style != PAM_PROMPT_ECHO_ON)
			continue;
		if (h->used == h->have)
			say(h, "no reply left\n");
		else {
			const char *s = h->replies[h->used++];
			resp[i].resp = s == NULL ? NULL : strdup(s);
		}
	}
	*r = resp;
	return PAM_SUCCESS;
}

static void on_signal(int sig) { (void)sig; }

static int flags(const char *s)
{
	int f = 0;
	for (; s != NULL && *s != 0; s++)
		f |= *s == 's' ? PAM_SILENT : *s == 'n' ? PAM_DISALLOW_NULL_AUTHTOK : *s == 'x' ? PAM_CHANGE_EXPIRED_AUTHTOK
			: *s == 'e' ? PAM_ESTABLISH_CRED : *s == 'd' ? PAM_DELETE_CRED : *s == 'i' ? PAM_REINITIALIZE_CRED
			: *s == 'r' ? PAM_REFRESH_CRED : 0;
	return f;
}

static int hex(char c) { return c <= '9' ? c - '0' : c - 'a' + 10; }

/* unhex decodes hex and turns each byte's bits around, so that what is looked for
 * is nowhere in memory because of us. */
static size_t unhex(const char *s, unsigned char *to, unsigned char mask)
{
	size_t n = 0;
	for (; s[0] != 0 && s[1] != 0; s += 2)
		to[n++] = (unsigned char)((hex(s[0]) << 4 | hex(s[1])) ^ mask);
	return n;
}

/* grep counts the places in all memory that we may write where the bytes are
 * whose complement s is. It copies nothing. */
static int grep(const char *s)
{
	unsigned char want[512];
	size_t n = unhex(s, want, 0);
	int found = 0;
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[1024];
	while (maps != NULL && fgets(line, sizeof line, maps) != NULL) {
		unsigned long from, to;
		char mode[8];
		if (sscanf(line, "%lx-%lx %7s", &from, &to, mode) != 3 || mode[0] != 'r' || mode[1] != 'w' || strstr(line, "[v") != NULL)
			continue;
		for (const volatile unsigned char *p = (void *)from; p + n <= (const volatile unsigned char *)to; p++) {
			size_t k = 0;
			while (k < n && (unsigned char)~p[k] == want[k])
				k++;
			found += k == n;
		}
	}
	if (maps != NULL)
		fclose(maps);
	return found;
}

static void start(struct host *h)
{
	struct pam_conv conv = { talk, h };
	int rc = pam_start_confdir(h->service, h->user, &conv, h->confdir, &h->pamh);
	if (rc != PAM_SUCCESS)
		say(h, "rc start %d\n", rc);
}

static const char *after(const char *s, const char *prefix)
{
	size_t n = strlen(prefix);
	return strncmp(s, prefix, n) == 0 ? s + n : NULL;
}

static void run(struct host *h, int i, bool *threads);

static void *thread(void *p)
{
	struct host h = { .quiet = true };
	bool more = false;
	int *rc = calloc(1, sizeof *rc);
	run(&h, (int)(intptr_t)p, &more);
	*rc = h.fail;
	return rc;
}

static void spawn(int count, int from)
{
	pthread_t t[256];
	int bad = 0;
	for (int i = 0; i < count; i++) {
		pthread_attr_t small;
		pthread_attr_init(&small);
		pthread_attr_setstacksize(&small, 128 << 10);
		if (pthread_create(&t[i], &small, thread, (void *)(intptr_t)from) != 0)
			exit(3);
	}
	for (int i = 0; i < count; i++) {
		void *rc;
		pthread_join(t[i], &rc);
		bad += *(int *)rc != 0;
		free(rc);
	}
	dprintf(out, "threads %d bad %d\n", count, bad);
}

static void call(struct host *h, const char *name, int rc)
{
	say(h, "rc %s %d\n", name, rc);
	if (h->quiet && rc != PAM_SUCCESS)
		h->fail = 1;
}

static void run(struct host *h, int i, bool *threads)
{
	for (; i < nargs; i++) {
		const char *a = args[i], *v;
		if ((v = after(a, "confdir=")) != NULL)
			h->confdir = v;
		else if ((v = after(a, "service=")) != NULL)
			h->service = v;
		else if ((v = after(a, "user=")) != NULL)
			h->user = v;
		else if (strcmp(a, "start") == 0)
			start(h);
		else if ((v = after(a, "tty=")) != NULL)
			pam_set_item(h->pamh, PAM_TTY, v);
		else if ((v = after(a, "rhost=")) != NULL)
			pam_set_item(h->pamh, PAM_RHOST, v);
		else if ((v = after(a, "ruser=")) != NULL)
			pam_set_item(h->pamh, PAM_RUSER, v);
		else if ((v = after(a, "pamuser=")) != NULL)
			pam_set_item(h->pamh, PAM_USER, v);
		else if ((v = after(a, "putenv=")) != NULL)
			pam_putenv(h->pamh, v);
		else if ((v = after(a, "reply=")) != NULL)
			h->replies[h->have++] = strdup(v);
		else if (strcmp(a, "logs") == 0)
			logs = true;
		else if (strcmp(a, "noreply") == 0)
			h->replies[h->have++] = NULL;
		else if ((v = after(a, "coded=")) != NULL) { /* a reply, as grep= takes it */
			unsigned char *s = calloc(1, 8192);
			unhex(v, s, 0xff);
			h->replies[h->have++] = (char *)s;
		} else if (strcmp(a, "burn") == 0) { /* our own copies of the replies */
			for (int k = 0; k < h->have; k++)
				if (h->replies[k] != NULL)
					explicit_bzero(h->replies[k], strlen(h->replies[k]));
		} else if ((v = after(a, "convfail=")) != NULL)
			h->fail = atoi(v);
		else if ((v = after(a, "rename=")) != NULL)
			h->rename = v;
		else if ((v = after(a, "auth")) != NULL)
			call(h, "auth", pam_authenticate(h->pamh, flags(v)));
		else if ((v = after(a, "acct")) != NULL)
			call(h, "acct", pam_acct_mgmt(h->pamh, flags(v)));
		else if ((v = after(a, "setcred:")) != NULL)
			call(h, "setcred", pam_setcred(h->pamh, flags(v)));
		else if ((v = after(a, "open")) != NULL)
			call(h, "open", pam_open_session(h->pamh, flags(v)));
		else if ((v = after(a, "close")) != NULL && (*v == 0 || *v == ':'))
			call(h, "close", pam_close_session(h->pamh, flags(v)));
		else if ((v = after(a, "chauthtok")) != NULL)
			call(h, "chauthtok", pam_chauthtok(h->pamh, flags(v)));
		else if (strcmp(a, "end") == 0) {
			pam_end(h->pamh, PAM_SUCCESS);
			h->pamh = NULL;
		} else if ((v = after(a, "closefd=")) != NULL)
			close(atoi(v));
		else if ((v = after(a, "umask=")) != NULL)
			umask((mode_t)strtol(v, NULL, 8));
		else if (strcmp(a, "umask?") == 0) {
			mode_t m = umask(0);
			umask(m);
			say(h, "umask %04o\n", (unsigned)m);
		} else if ((v = after(a, "sigpipe=")) != NULL)
			signal(SIGPIPE, strcmp(v, "ign") == 0 ? SIG_IGN : SIG_DFL);
		else if (strcmp(a, "sigpipe?") == 0) {
			struct sigaction s;
			sigaction(SIGPIPE, NULL, &s);
			say(h, "sigpipe %s\n", s.sa_handler == SIG_IGN ? "ign" : s.sa_handler == SIG_DFL ? "dfl" : "other");
		} else if ((v = after(a, "itimer=")) != NULL) { /* a signal every so many microseconds */
			struct sigaction s = { .sa_handler = on_signal };
			struct itimerval t = { { 0, atoi(v) }, { 0, atoi(v) } };
			sigaction(SIGALRM, &s, NULL);
			setitimer(ITIMER_REAL, &t, NULL);
		} else if ((v = after(a, "ruid=")) != NULL) { /* as a setuid program of root's runs */
			if (setresuid((uid_t)atoi(v), 0, 0) != 0)
				exit(4);
		} else if ((v = after(a, "uid=")) != NULL) {
			uid_t u = (uid_t)atoi(v);
			if (setresgid(u, u, u) != 0 || setresuid(u, u, u) != 0)
				exit(4);
		} else if (strcmp(a, "env") == 0) {
			char **e = pam_getenvlist(h->pamh);
			for (char **p = e; p != NULL && *p != NULL; p++)
				say(h, "env %s\n", *p);
			pam_misc_drop_env(e);
		} else if (strcmp(a, "fds") == 0) {
			for (int fd = 0; fd < 256; fd++) {
				char path[32], to[256] = "";
				snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
				if (fd != out && readlink(path, to, sizeof to - 1) > 0)
					say(h, "fd %d %s\n", fd, to);
			}
		} else if ((v = after(a, "grep=")) != NULL)
			say(h, "found %d\n", grep(v));
		else if ((v = after(a, "threads=")) != NULL) {
			spawn(atoi(v), i + 1);
			*threads = true;
			break;
		} else {
			dprintf(out, "no such argument: %s\n", a);
			exit(2);
		}
	}
	if (h->pamh != NULL)
		pam_end(h->pamh, PAM_SUCCESS);
	for (int k = 0; k < h->have; k++)
		free(h->replies[k]);
}

int main(int argc, char **argv)
{
	struct host h = { 0 };
	bool threads = false;
	out = fcntl(1, F_DUPFD_CLOEXEC, 100);
	args = argv + 1;
	nargs = argc - 1;
	run(&h, 0, &threads);
	return 0;
}
