/* fuzz runs the module's code on what a server might say, out of memory, many
 * times in one process: the module's files but dial.c are compiled with it, under
 * the sanitizers and with a counter in each basic block, and PAM is a small one of
 * its own.
 *
 * It reads cases from standard input, each a length (4 bytes, little-endian) and
 * so many bytes:
 *
 *   mode, reply, stream …
 *
 * mode's low two bits say which calls are made (see run_case), the others set
 * options and flags; reply is how long the replies to prompts are, in steps of 20
 * bytes; the stream is what the server says: a NUL ends what one recv(2) returns,
 * and an empty piece is a server that hangs up. Each call has a connection of its
 * own, which begins at the next piece.
 *
 * For each case it writes the number of codes, the codes, the number of edges that
 * were passed (2 bytes), and for each its number (2 bytes) and how often (1 byte).
 * A report of a sanitizer ends it, as does a leak, a request that is malformed, or
 * a file left behind. */
#include "sekisho.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <dirent.h>
#include <unistd.h>

#include <security/pam_ext.h>
#include <security/pam_modutil.h>

size_t __sanitizer_get_current_allocated_bytes(void); /* gcc ships no header for it */

enum { EDGES = 2048 };
static unsigned char edges[EDGES];
static uintptr_t before;

void __sanitizer_cov_trace_pc(void);
void __sanitizer_cov_trace_pc(void)
{
	uintptr_t here = (uintptr_t)__builtin_return_address(0) - (uintptr_t)&pam_sm_authenticate;
	unsigned char *e = &edges[(((here ^ before) * 0x9E3779B97F4A7C15u) >> 40) % EDGES];
	if (*e < 16)
		++*e;
	before = here >> 1;
}

static void die(const char *what)
{
	fprintf(stderr, "fuzz: %s\n", what);
	abort();
}

/* The server. */
static const char *stream, *stream_end;
static bool midway; /* a connection has read in the piece that stream is in */

int64_t clock_ms(void) { return 0; }
int fd_high(int fd) { return fd; }

bool folder_guard(const char *path, uid_t *owner, struct fault *f)
{
	(void)path;
	(void)f;
	*owner = 0;
	return true;
}

int conn_open(const struct options *o, int64_t until, struct fault *f)
{
	(void)o;
	(void)until;
	(void)f;
	if (midway) {
		while (stream < stream_end && *stream != 0)
			stream++;
		if (stream < stream_end)
			stream++;
	}
	midway = false;
	return 1 << 20; /* nothing is open there */
}

bool conn_quiet(int fd, struct fault *f)
{
	(void)fd;
	(void)f;
	return true;
}

bool conn_send(int fd, const char *buf, size_t len, int64_t until, struct fault *f)
{
	(void)fd;
	(void)until;
	(void)f;
	if (len < 3 || len > WIRE_MAX_LINE || memcmp(buf, "1 ", 2) != 0 || buf[len - 1] != '\n')
		die("a request is malformed");
	for (size_t i = 0; i + 1 < len; i++)
		if (buf[i] < ' ' || buf[i] > '~')
			die("a request has a byte that must be escaped");
	return true;
}

ssize_t conn_recv(int fd, char *buf, size_t room, int64_t until, struct fault *f)
{
	(void)fd;
	(void)until;
	size_t n = 0;
	midway = true;
	while (n < room && stream < stream_end && *stream != 0)
		buf[n++] = *stream++;
	if (n == 0) {
		*f = (struct fault){ "the end", 0 };
		return -1;
	}
	if (stream < stream_end && *stream == 0) {
		stream++;
		midway = false;
	}
	return (ssize_t)n;
}

/* PAM. */
struct pam_handle {
	char *items[16];
	char *env[8];
	void *data;
	void (*data_free)(pam_handle_t *, void *, int);
	struct pam_conv conv;
	size_t reply;
};

int pam_get_item(const pam_handle_t *h, int item, const void **value)
{
	*value = item == PAM_CONV ? (const void *)&h->conv : h->items[item];
	return PAM_SUCCESS;
}

int pam_set_item(pam_handle_t *h, int item, const void *value)
{
	char *copy = value == NULL ? NULL : strdup(value);
	free(h->items[item]);
	h->items[item] = copy;
	return PAM_SUCCESS;
}

int pam_get_data(const pam_handle_t *h, const char *name, const void **data)
{
	(void)name;
	*data = h->data;
	return h->data == NULL ? PAM_NO_MODULE_DATA : PAM_SUCCESS;
}

int pam_set_data(pam_handle_t *h, const char *name, void *data, void (*cleanup)(pam_handle_t *, void *, int))
{
	(void)name;
	h->data = data;
	h->data_free = cleanup;
	return PAM_SUCCESS;
}

int pam_get_user(pam_handle_t *h, const char **user, const char *ask)
{
	(void)ask;
	*user = h->items[PAM_USER];
	return PAM_SUCCESS;
}

static int env_at(const pam_handle_t *h, const char *name, size_t n)
{
	for (int i = 0; i < 8; i++)
		if (h->env[i] != NULL && strncmp(h->env[i], name, n) == 0 && h->env[i][n] == '=')
			return i;
	return -1;
}

const char *pam_getenv(pam_handle_t *h, const char *name)
{
	int i = env_at(h, name, strlen(name));
	return i < 0 ? NULL : h->env[i] + strlen(name) + 1;
}

int pam_putenv(pam_handle_t *h, const char *line)
{
	const char *is = strchr(line, '=');
	size_t n = is == NULL ? strlen(line) : (size_t)(is - line);
	int i = env_at(h, line, n);
	if (is == NULL && i < 0)
		die("a variable is dropped that is not there");
	if (i >= 0) {
		free(h->env[i]);
		h->env[i] = NULL;
	}
	for (i = 0; is != NULL && i < 8; i++)
		if (h->env[i] == NULL) {
			h->env[i] = strdup(line);
			return PAM_SUCCESS;
		}
	return is == NULL ? PAM_SUCCESS : PAM_BUF_ERR;
}

/* All that is logged and shown is formatted, so that its length is looked at. */
void pam_vsyslog(const pam_handle_t *h, int priority, const char *format, va_list ap)
{
	static char line[1 << 17];
	(void)h;
	(void)priority;
	vsnprintf(line, sizeof line, format, ap);
}

void pam_syslog(const pam_handle_t *h, int priority, const char *format, ...)
{
	va_list ap;
	va_start(ap, format);
	pam_vsyslog(h, priority, format, ap);
	va_end(ap);
}

int pam_prompt(pam_handle_t *h, int style, char **response, const char *format, ...)
{
	va_list ap;
	(void)style;
	(void)response;
	va_start(ap, format);
	pam_vsyslog(h, 0, format, ap);
	va_end(ap);
	return PAM_SUCCESS;
}

struct passwd *pam_modutil_getpwnam(pam_handle_t *h, const char *user)
{
	static struct passwd pw = { .pw_uid = 2001, .pw_gid = 2001 };
	(void)h;
	(void)user;
	return &pw;
}

static int talk(int n, const struct pam_message **m, struct pam_response **r, void *data)
{
	pam_handle_t *h = data;
	size_t total = 0;
	if (n < 1 || n > PAM_MAX_NUM_MSG)
		die("a round has no messages, or too many");
	*r = calloc((size_t)n, sizeof **r);
	for (int i = 0; i < n; i++) {
		total += strlen(m[i]->msg);
		if (m[i]->msg_style > PAM_PROMPT_ECHO_ON)
			continue;
		(*r)[i].resp = malloc(h->reply + 1);
		memset((*r)[i].resp, '%', h->reply);
		(*r)[i].resp[h->reply] = 0;
	}
	return total > MAX_PROMPTS * MAX_PROMPT ? PAM_CONV_ERR : PAM_SUCCESS;
}

/* One case. */
static char folder[128];
static int codes[16], ncodes;

static void took(int code)
{
	if (code < 0 || code >= 32)
		die("there is no such code");
	codes[ncodes++] = code;
}

/* nothing_left looks at the folder of tickets. */
static void nothing_left(void)
{
	DIR *d = opendir(folder);
	for (struct dirent *e; d != NULL && (e = readdir(d)) != NULL;)
		if (e->d_name[0] != '.')
			die("tickets are left");
	closedir(d);
}

static void run_case(unsigned mode, pam_handle_t *h)
{
	char socket[160];
	snprintf(socket, sizeof socket, "socket=%.*s/pam.sock", (int)(strrchr(folder, '/') - folder), folder);
	const char *argv[4] = { socket };
	int argc = 1, flags = (mode & 32) != 0 ? (int)PAM_SILENT : 0;
	if ((mode & 4) != 0)
		argv[argc++] = "use_first_pass";
	if ((mode & 8) != 0)
		argv[argc++] = "try_first_pass";
	if ((mode & 16) != 0)
		argv[argc++] = "debug";
	if ((mode & 64) != 0)
		flags |= PAM_DISALLOW_NULL_AUTHTOK;
	if ((mode & 128) != 0)
		pam_set_item(h, PAM_AUTHTOK, "first");
	switch (mode & 3) {
	case 0:
		took(pam_sm_acct_mgmt(h, flags, argc, argv));
		break;
	case 1:
		took(pam_sm_authenticate(h, flags, argc, argv));
		break;
	case 2:
		took(pam_sm_chauthtok(h, flags | PAM_PRELIM_CHECK, argc, argv));
		took(pam_sm_chauthtok(h, flags | PAM_UPDATE_AUTHTOK, argc, argv));
		break;
	case 3:
		took(pam_sm_authenticate(h, flags, argc, argv));
		took(pam_sm_setcred(h, flags | (int)PAM_ESTABLISH_CRED, argc, argv));
		took(pam_sm_open_session(h, flags, argc, argv));
		took(pam_sm_setcred(h, flags | (int)PAM_REINITIALIZE_CRED, argc, argv));
		if (pam_getenv(h, "SEKISHO_LOGIN") != NULL)
			die("the token stays in the environment");
		took(pam_sm_close_session(h, flags, argc, argv));
		took(pam_sm_setcred(h, flags | (int)PAM_DELETE_CRED, argc, argv));
		nothing_left();
	}
}

static void one(char *data, size_t len)
{
	size_t held = __sanitizer_get_current_allocated_bytes();
	pam_handle_t h = { .conv = { talk, &h }, .reply = (unsigned char)data[1] * 20u };
	stream = data + 2;
	stream_end = data + len;
	midway = false;
	ncodes = 0;
	before = 0;
	memset(edges, 0, sizeof edges);
	h.items[PAM_USER] = strdup("alice");
	h.items[PAM_SERVICE] = strdup("fuzz");
	run_case((unsigned char)data[0], &h);
	if (h.data != NULL)
		h.data_free(&h, h.data, 0);
	for (int i = 0; i < 16; i++)
		free(h.items[i]);
	for (int i = 0; i < 8; i++)
		free(h.env[i]);
	if (__sanitizer_get_current_allocated_bytes() != held)
		die("memory is lost");
}

int main(int argc, char **argv)
{
	if (argc != 2)
		return 2;
	snprintf(folder, sizeof folder, "%s", argv[1]);
	for (;;) {
		unsigned char head[4], out[16 + 3 * EDGES];
		if (fread(head, 4, 1, stdin) != 1)
			return 0;
		size_t len = head[0] | (size_t)head[1] << 8 | (size_t)head[2] << 16 | (size_t)head[3] << 24;
		char *data = malloc(len); /* its end is guarded */
		if (len < 2 || fread(data, len, 1, stdin) != 1)
			return 2;
		one(data, len);
		free(data);
		size_t n = 0;
		out[n++] = (unsigned char)ncodes;
		for (int i = 0; i < ncodes; i++)
			out[n++] = (unsigned char)codes[i];
		size_t at = n, count = 0;
		n += 2;
		for (unsigned i = 0; i < EDGES; i++)
			if (edges[i] != 0) {
				out[n++] = (unsigned char)i;
				out[n++] = (unsigned char)(i >> 8);
				out[n++] = edges[i];
				count++;
			}
		out[at] = (unsigned char)count;
		out[at + 1] = (unsigned char)(count >> 8);
		if (fwrite(out, n, 1, stdout) != 1 || fflush(stdout) != 0)
			return 2;
	}
}
