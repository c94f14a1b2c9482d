#include "sekisho.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include <security/pam_ext.h>

#define STATE "sekisho_state"

/* note logs one line, under the call's name. No argument is a secret. */
void note(const struct call *c, int priority, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	pam_vsyslog(c->pamh, priority, format, args);
	va_end(args);
}

void debug(const struct call *c, const char *format, ...)
{
	va_list args;
	if (!c->opt.debug)
		return;
	va_start(args, format);
	pam_vsyslog(c->pamh, LOG_DEBUG, format, args);
	va_end(args);
}

void wipe_free(void *p, size_t n)
{
	if (p != NULL) {
		explicit_bzero(p, n);
		free(p);
	}
}

/* is_opaque tells whether s is min to max characters of base64url. */
bool is_opaque(const char *s, size_t min, size_t max)
{
	size_t n = 0;
	for (; *s != 0; s++, n++)
		if (n == max || !((*s >= 'A' && *s <= 'Z') || (*s >= 'a' && *s <= 'z') || (*s >= '0' && *s <= '9') || *s == '-' || *s == '_'))
			return false;
	return n >= min;
}

static void state_free(pam_handle_t *pamh, void *data, int error)
{
	(void)pamh;
	(void)error;
	wipe_free(data, sizeof(struct state));
}

/* state_get returns the handle's state, made when there is none; NULL without memory. */
static struct state *state_get(pam_handle_t *pamh)
{
	const void *data = NULL;
	if (pam_get_data(pamh, STATE, &data) == PAM_SUCCESS && data != NULL)
		return (struct state *)(uintptr_t)data;
	struct state *s = calloc(1, sizeof *s);
	if (s != NULL && pam_set_data(pamh, STATE, s, state_free) != PAM_SUCCESS) {
		free(s);
		s = NULL;
	}
	return s;
}

/* call_begin reads the options and who is meant. After PAM_SUCCESS, call_end. */
int call_begin(struct call *c, pam_handle_t *pamh, int flags, int argc, const char **argv)
{
	memset(c, 0, sizeof *c);
	c->pamh = pamh;
	c->flags = (unsigned)flags;
	c->fd = -1;
	int rc = options_read(pamh, argc, argv, &c->opt);
	if (rc != PAM_SUCCESS)
		return rc;
	const char *user = NULL;
	rc = pam_get_user(pamh, &user, NULL);
	if (rc != PAM_SUCCESS)
		return rc == PAM_CONV_AGAIN ? PAM_INCOMPLETE : rc;
	if (user == NULL || user[0] == 0 || strlen(user) > MAX_USER) {
		debug(c, "the user's name is empty or longer than %d bytes", MAX_USER);
		return PAM_USER_UNKNOWN;
	}
	memcpy(c->user, user, strlen(user) + 1);
	c->service = call_item(c, PAM_SERVICE);
	if (c->service == NULL)
		return PAM_SYSTEM_ERR;
	c->state = state_get(pamh);
	return c->state == NULL ? PAM_BUF_ERR : PAM_SUCCESS;
}

void call_end(struct call *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
}

/* call_item returns a text of the handle, NULL when it is absent or empty. */
const char *call_item(const struct call *c, int item)
{
	const void *value = NULL;
	if (pam_get_item(c->pamh, item, &value) != PAM_SUCCESS || value == NULL || *(const char *)value == 0)
		return NULL;
	return value;
}

/* call_login returns the token of the sign-in, if it was of the user whom this
 * call is about: sudo puts another in his place. */
const char *call_login(const struct call *c)
{
	return c->state->login[0] != 0 && strcmp(c->state->user, c->user) == 0 ? c->state->login : NULL;
}

/* env_put sets a variable of PAM's environment; libpam copies it. */
int env_put(struct call *c, const char *name, const char *value)
{
	char line[MAX_PATH + 64];
	int n = snprintf(line, sizeof line, "%s=%s", name, value);
	int rc = n > 0 && (size_t)n < sizeof line ? pam_putenv(c->pamh, line) : PAM_BUF_ERR;
	explicit_bzero(line, sizeof line);
	return rc;
}

/* env_drop removes a variable, if it is there. */
static void env_drop(struct call *c, const char *name)
{
	if (pam_getenv(c->pamh, name) != NULL)
		pam_putenv(c->pamh, name);
}

/* login_set keeps the token of the user who has just signed in; also in PAM's
 * environment, the one thing that sshd carries from the process that
 * authenticates to the one that does the rest. */
void login_set(struct call *c, const char *token)
{
	memcpy(c->state->login, token, TOKEN_LEN + 1);
	memcpy(c->state->user, c->user, sizeof c->state->user);
	if (env_put(c, LOGIN_ENV, token) != PAM_SUCCESS)
		note(c, LOG_ERR, "the sign-in could not be handed on to the session: there will be no ticket");
}

/* login_adopt finds the token that another process left in the environment. */
void login_adopt(struct call *c)
{
	const char *token = pam_getenv(c->pamh, LOGIN_ENV);
	if (c->state->login[0] != 0 || token == NULL || !is_opaque(token, TOKEN_LEN, TOKEN_LEN))
		return;
	memcpy(c->state->login, token, TOKEN_LEN + 1);
	memcpy(c->state->user, c->user, sizeof c->state->user);
}

/* login_hide moves the token out of the environment, which the user's processes
 * are about to get, into the handle. */
void login_hide(struct call *c)
{
	login_adopt(c);
	env_drop(c, LOGIN_ENV);
}

/* login_forget drops a token, as a sign-in begins anew. */
void login_forget(struct call *c)
{
	explicit_bzero(c->state->login, sizeof c->state->login);
	c->state->user[0] = 0;
	c->state->settled = false;
	env_drop(c, LOGIN_ENV);
}
