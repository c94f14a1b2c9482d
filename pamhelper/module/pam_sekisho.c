/* pam_sekisho.so asks sekishod, by its socket pam.sock, whether somebody may come
 * in. docs/pam.md is its manual; the verbs are door/pam's. It makes no thread, child
 * or signal, changes nothing of its process (umask, ids, folder, environment), and
 * has no variable of its own that can be written. */
#include "sekisho.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include <security/pam_ext.h>

#define PUBLIC __attribute__((visibility("default")))

/* A reason and its code in PAM. The last one has no reason and is for the rest. */
struct code {
	const char *reason;
	int code;
};

static const struct code auth_codes[] = {
	{ "unknown-user", PAM_USER_UNKNOWN },
	{ "max-tries", PAM_MAXTRIES },
	{ NULL, PAM_AUTH_ERR },
};

static const struct code account_codes[] = {
	{ "password-expired", PAM_NEW_AUTHTOK_REQD },
	{ "kerberos-expired", PAM_ACCT_EXPIRED },
	{ "shadow-expired", PAM_ACCT_EXPIRED },
	{ "unknown-user", PAM_USER_UNKNOWN },
	{ NULL, PAM_PERM_DENIED },
};

static const struct code credential_codes[] = {
	{ "password-expired", PAM_CRED_EXPIRED },
	{ "kerberos-expired", PAM_CRED_EXPIRED },
	{ "unknown-user", PAM_USER_UNKNOWN },
	{ NULL, PAM_CRED_ERR },
};

static const struct code session_codes[] = {
	{ "unknown-user", PAM_USER_UNKNOWN }, /* another source's: the stack may let him pass */
	{ NULL, PAM_SESSION_ERR },
};

static const struct code passwd_codes[] = {
	{ "wrong-password", PAM_AUTH_ERR },
	{ "password-refused", PAM_AUTHTOK_ERR },
	{ "unknown-user", PAM_USER_UNKNOWN },
	{ "busy", PAM_AUTHTOK_LOCK_BUSY },
	{ NULL, PAM_PERM_DENIED },
};

/* verdict turns an answer into a code: yes is PAM_SUCCESS, a no is found in codes,
 * and anything else is PAM_AUTHINFO_UNAVAIL. */
static int verdict(const struct call *c, const struct answer *a, const struct code *codes)
{
	if (a->outcome == OUTCOME_YES)
		return PAM_SUCCESS;
	if (a->outcome != OUTCOME_NO)
		return PAM_AUTHINFO_UNAVAIL;
	while (codes->reason != NULL && strcmp(codes->reason, a->reason) != 0)
		codes++;
	note(c, LOG_NOTICE, "refused: %s", *a->reason != 0 ? a->reason : "no reason given");
	return codes->code;
}

/* What the body of a yes may hold, each but info once. A line that is not
 * expected makes the answer one that was not understood. */
struct body {
	char login[TOKEN_LEN + 1];
	char session[MAX_SESSION + 1];
	char dir[NAME_LEN + 1];
};

enum {
	TAKE_INFO = 0,
	TAKE_LOGIN = 1,
	TAKE_SESSION = 2,
	TAKE_CACHE = 4, /* dir and cache lines */
};

/* opaque takes one value. */
static bool opaque(char *into, const char *value, size_t min, size_t max)
{
	if (into[0] != 0 || !is_opaque(value, min, max))
		return false;
	memcpy(into, value, strlen(value) + 1);
	return true;
}

static bool read_body(const struct answer *a, int take, struct body *b)
{
	memset(b, 0, sizeof *b);
	for (char *line = answer_line(a, NULL); line != NULL; line = answer_line(a, line)) {
		bool ok = strncmp(line, "info ", 5) == 0;
		if ((take & TAKE_LOGIN) != 0 && strncmp(line, "login ", 6) == 0)
			ok = opaque(b->login, line + 6, TOKEN_LEN, TOKEN_LEN);
		else if ((take & TAKE_SESSION) != 0 && strncmp(line, "session ", 8) == 0)
			ok = opaque(b->session, line + 8, 1, MAX_SESSION);
		else if ((take & TAKE_CACHE) != 0 && strncmp(line, "dir ", 4) == 0)
			ok = opaque(b->dir, line + 4, NAME_LEN, NAME_LEN);
		else if ((take & TAKE_CACHE) != 0 && strncmp(line, "cache ", 6) == 0)
			ok = true;
		if (!ok)
			return false;
	}
	return true;
}

/* understood reads the body of a yes; when it cannot, a becomes "could not find out". */
static bool understood(const struct call *c, struct answer *a, int take, struct body *b)
{
	memset(b, 0, sizeof *b);
	if (a->outcome != OUTCOME_YES || read_body(a, take, b))
		return true;
	explicit_bzero(b, sizeof *b);
	answer_free(a);
	note(c, LOG_ERR, "sekishod's yes has a body that pam_sekisho.so does not understand: install the same sekisho release of both");
	return false;
}

static int digit64(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* decode64 decodes base64 of RFC 4648 §4, padded, in its one spelling. out may be
 * where in is, or before. -1 when it is not that. */
static ssize_t decode64(const char *in, char *out)
{
	size_t len = strlen(in), n = 0;
	if (len == 0 || len % 4 != 0)
		return -1;
	size_t pad = in[len - 1] != '=' ? 0 : in[len - 2] != '=' ? 1 : 2;
	uint32_t bits = 0;
	for (size_t i = 0; i < len; i++) {
		int d = i < len - pad ? digit64(in[i]) : 0;
		if (d < 0)
			return -1;
		bits = bits << 6 | (uint32_t)d;
		if (i % 4 != 3)
			continue;
		size_t bytes = i + 1 == len ? 3 - pad : 3;
		if (bytes < 3 && (bits & (0xffffffu >> (8 * bytes))) != 0)
			return -1;
		for (size_t k = 0; k < bytes; k++)
			out[n++] = (char)(bits >> (16 - 8 * k));
		bits = 0;
	}
	return (ssize_t)n;
}

/* cache_bytes decodes the cache lines of a's body over its beginning; b was read
 * before. -1 when they are no credential cache of version 4. */
static ssize_t cache_bytes(struct answer *a, char **data)
{
	char *out = a->buf + a->body, *next;
	size_t n = 0;
	*data = out;
	for (char *line = answer_line(a, NULL); line != NULL; line = next) {
		next = answer_line(a, line);
		if (strncmp(line, "cache ", 6) != 0)
			continue;
		ssize_t got = decode64(line + 6, out + n);
		if (got < 0)
			return -1;
		n += (size_t)got;
	}
	return n == 0 || (n >= 2 && out[0] == 5 && out[1] == 4) ? (ssize_t)n : -1;
}

/* fields adds what a request says about where somebody comes from. */
static void fields_from(const struct call *c, struct request *q)
{
	request_field(q, "tty", call_item(c, PAM_TTY));
	request_field(q, "rhost", call_item(c, PAM_RHOST));
	request_field(q, "ruser", call_item(c, PAM_RUSER));
}

/* authinfo is what sshd has verified so far, which may be nothing yet; NULL for a
 * program that is not sshd. */
static const char *authinfo(const struct call *c)
{
	return pam_getenv(c->pamh, AUTHINFO_ENV);
}

static void begin(const struct call *c, struct request *q, const char *verb)
{
	request_begin(q, verb);
	request_field(q, "user", c->user);
}

/* same_user tells whether PAM's user is still the one whom sekishod was asked about. */
static bool same_user(const struct call *c)
{
	const char *user = call_item(c, PAM_USER);
	return user != NULL && strcmp(user, c->user) == 0;
}

PUBLIC int pam_sm_authenticate(pam_handle_t *pamh, int flags, int argc, const char **argv)
{
	struct call c;
	struct request q;
	struct answer a;
	struct body b;
	int rc = call_begin(&c, pamh, flags, argc, argv);
	if (rc != PAM_SUCCESS)
		return rc;
	login_forget(&c);
	begin(&c, &q, "auth");
	request_field(&q, "service", c.service);
	fields_from(&c, &q);
	request_field(&q, "authinfo", authinfo(&c));
	rc = converse(&c, PURPOSE_AUTH, &q, &a);
	if (rc == PAM_SUCCESS) {
		understood(&c, &a, TAKE_LOGIN, &b);
		show(&c, &a);
		rc = verdict(&c, &a, auth_codes);
		if (rc == PAM_SUCCESS && !same_user(&c)) {
			note(&c, LOG_ERR, "the program changed the user while he signed in: refused");
			rc = PAM_AUTH_ERR;
		}
		if (rc == PAM_SUCCESS && b.login[0] != 0)
			login_set(&c, b.login);
		explicit_bzero(&b, sizeof b);
	}
	answer_free(&a);
	call_end(&c);
	return rc;
}

PUBLIC int pam_sm_acct_mgmt(pam_handle_t *pamh, int flags, int argc, const char **argv)
{
	struct call c;
	struct request q;
	struct answer a;
	struct body b;
	int rc = call_begin(&c, pamh, flags, argc, argv);
	if (rc != PAM_SUCCESS)
		return rc;
	login_adopt(&c);
	begin(&c, &q, "account");
	request_field(&q, "service", c.service);
	fields_from(&c, &q);
	request_field(&q, "authinfo", authinfo(&c));
	request_field(&q, "login", call_login(&c));
	ask(&c, &q, &a);
	understood(&c, &a, TAKE_INFO, &b);
	show(&c, &a);
	rc = verdict(&c, &a, account_codes);
	c.state->age = rc == PAM_SUCCESS ? AGE_GOOD : rc == PAM_NEW_AUTHTOK_REQD ? AGE_EXPIRED : AGE_UNKNOWN;
	answer_free(&a);
	call_end(&c);
	return rc;
}

/* keep_session remembers a session's id, and tells it to the user's processes. */
static void keep_session(struct call *c, const char *id)
{
	if (id[0] == 0)
		return;
	memcpy(c->state->session, id, strlen(id) + 1);
	if (env_put(c, SESSION_ENV, id) != PAM_SUCCESS)
		note(c, LOG_ERR, "the session's id could not be put into the environment");
}

/* ticket_of is the cache that this sign-in should renew: the one made by this
 * handle, or, for a program of the user's own such as a screen locker, the one that
 * the program itself uses. NULL when there is none. */
static const char *ticket_of(const struct call *c, char *buf, size_t room)
{
	if (c->state->dir[0] != 0)
		return cache_name(c, c->state->dir, buf, room) ? buf : NULL;
	const char *s = geteuid() != 0 ? secure_getenv(CCACHE_ENV) : NULL;
	return s != NULL && cache_is_ours(c, s) ? s : NULL;
}

/* credentials asks for tickets, or for what op says, and stores what comes. */
static int credentials(struct call *c, const char *op)
{
	struct request q;
	struct answer a;
	struct body b;
	char ccname[MAX_PATH], *data = NULL;
	begin(c, &q, "credentials");
	request_field(&q, "op", op);
	request_field(&q, "login", call_login(c));
	request_field(&q, "session", c->state->session[0] != 0 ? c->state->session : NULL);
	request_field(&q, "ccname", ticket_of(c, ccname, sizeof ccname));
	ask(c, &q, &a);
	bool ok = understood(c, &a, strcmp(op, "delete") == 0 ? TAKE_INFO : TAKE_SESSION | TAKE_CACHE, &b);
	int rc = verdict(c, &a, credential_codes);
	ssize_t n = ok && rc == PAM_SUCCESS ? cache_bytes(&a, &data) : 0;
	if (n < 0 || (n == 0) != (b.dir[0] == 0)) {
		note(c, LOG_ERR, "sekishod's tickets are not readable: install the same sekisho release of both");
		rc = PAM_AUTHINFO_UNAVAIL;
	} else if (rc == PAM_SUCCESS) {
		keep_session(c, b.session);
		/* Only root can make a folder in another's name. */
		if (n > 0 && geteuid() == 0)
			rc = cache_make(c, b.dir, data, (size_t)n);
	}
	answer_free(&a);
	call_end(c);
	return rc;
}

/* establish gets the tickets of a sign-in, once. Without a sign-in, by a key or a
 * ticket, there are none to get, and sekishod is not asked. */
static int establish(struct call *c)
{
	if (c->state->settled || call_login(c) == NULL || geteuid() != 0)
		return PAM_SUCCESS;
	int rc = credentials(c, "establish");
	c->state->settled = rc == PAM_SUCCESS;
	return rc;
}

PUBLIC int pam_sm_setcred(pam_handle_t *pamh, int flags, int argc, const char **argv)
{
	struct call c;
	char ccname[MAX_PATH];
	int rc = call_begin(&c, pamh, flags, argc, argv);
	if (rc != PAM_SUCCESS)
		return rc;
	login_hide(&c);
	bool mine = c.state->user[0] == 0 || strcmp(c.state->user, c.user) == 0;
	if ((c.flags & PAM_DELETE_CRED) != 0) {
		if (c.state->dir[0] != 0) {
			int removed = cache_remove(&c);
			rc = credentials(&c, "delete");
			rc = removed != PAM_SUCCESS ? removed : rc;
		}
		login_forget(&c);
	} else if (!mine) {
		debug(&c, "the credentials are for another user than the one who signed in: none");
	} else if ((c.flags & (PAM_REINITIALIZE_CRED | PAM_REFRESH_CRED)) == 0) {
		rc = establish(&c);
	} else if (ticket_of(&c, ccname, sizeof ccname) == NULL) {
		rc = establish(&c); /* sudo and others begin so */
	} else {
		rc = credentials(&c, (c.flags & PAM_REFRESH_CRED) != 0 ? "refresh" : "reinitialize");
	}
	call_end(&c);
	return rc;
}

/* session tells sekishod that a session opens or closes. */
static int session(struct call *c, const char *op)
{
	struct request q;
	struct answer a;
	struct body b;
	char pid[24];
	snprintf(pid, sizeof pid, "%ld", (long)getpid());
	begin(c, &q, "session");
	request_field(&q, "service", c->service);
	request_field(&q, "op", op);
	fields_from(c, &q);
	if (strcmp(op, "open") == 0)
		request_field(&q, "authinfo", authinfo(c)); /* sshd's is whole only now */
	request_field(&q, "login", call_login(c));
	request_field(&q, "session", c->state->session[0] != 0 ? c->state->session : NULL);
	request_field(&q, "pid", pid);
	ask(c, &q, &a);
	understood(c, &a, TAKE_SESSION, &b);
	if (strcmp(op, "open") == 0) {
		show(c, &a);
		keep_session(c, b.session);
	}
	int rc = verdict(c, &a, session_codes);
	answer_free(&a);
	call_end(c);
	return rc;
}

PUBLIC int pam_sm_open_session(pam_handle_t *pamh, int flags, int argc, const char **argv)
{
	struct call c;
	int rc = call_begin(&c, pamh, flags, argc, argv);
	if (rc != PAM_SUCCESS)
		return rc;
	login_hide(&c);
	rc = session(&c, "open");
	/* sshd's pam_setcred passes a module by when it authenticated in another
	 * process and a module above succeeds; the tickets come now, at the latest. */
	if (rc == PAM_SUCCESS && establish(&c) != PAM_SUCCESS && (c.flags & PAM_SILENT) == 0)
		pam_prompt(c.pamh, PAM_ERROR_MSG, NULL, "there is no Kerberos ticket in this session: the log of this host says why");
	call_end(&c);
	return rc;
}

PUBLIC int pam_sm_close_session(pam_handle_t *pamh, int flags, int argc, const char **argv)
{
	struct call c;
	int rc = call_begin(&c, pamh, flags, argc, argv);
	if (rc != PAM_SUCCESS)
		return rc;
	/* Before sekishod is asked: they go even when it is down. */
	int removed = cache_remove(&c);
	rc = session(&c, "close");
	call_end(&c);
	return rc != PAM_SUCCESS ? rc : removed != PAM_SUCCESS ? PAM_SESSION_ERR : PAM_SUCCESS;
}

PUBLIC int pam_sm_chauthtok(pam_handle_t *pamh, int flags, int argc, const char **argv)
{
	struct call c;
	struct request q;
	struct answer a;
	struct body b;
	int rc = call_begin(&c, pamh, flags, argc, argv);
	if (rc != PAM_SUCCESS)
		return rc;
	bool check = (c.flags & PAM_PRELIM_CHECK) != 0;
	if (!check && (c.flags & PAM_UPDATE_AUTHTOK) == 0)
		return PAM_SYSTEM_ERR;
	if ((c.flags & PAM_CHANGE_EXPIRED_AUTHTOK) != 0 && c.state->age == AGE_GOOD) {
		debug(&c, "the password has not expired: nothing to change");
		return PAM_SUCCESS;
	}
	begin(&c, &q, "passwd");
	request_field(&q, "service", c.service);
	request_field(&q, "tty", call_item(&c, PAM_TTY));
	request_field(&q, "rhost", call_item(&c, PAM_RHOST));
	request_field(&q, "phase", check ? "check" : "change");
	rc = converse(&c, check ? PURPOSE_CHECK : PURPOSE_CHANGE, &q, &a);
	if (rc == PAM_SUCCESS) {
		understood(&c, &a, TAKE_INFO, &b);
		show(&c, &a);
		rc = verdict(&c, &a, passwd_codes);
		if (rc == PAM_SUCCESS && !check)
			c.state->age = AGE_GOOD;
	}
	if (check && rc == PAM_AUTHINFO_UNAVAIL)
		rc = PAM_TRY_AGAIN;
	answer_free(&a);
	call_end(&c);
	return rc;
}
