/* A PAM module that does what modules should not, or seldom do: its argument
 * says what. Only tests load it. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <security/pam_appl.h>
#include <security/pam_modules.h>

static int converse(pam_handle_t *h, int n, const struct pam_message **m, struct pam_response **r)
{
	const struct pam_conv *c = NULL;
	if (pam_get_item(h, PAM_CONV, (const void **)&c) != PAM_SUCCESS || c == NULL)
		return PAM_CONV_ERR;
	*r = NULL;
	return c->conv(n, m, r, c->appdata_ptr);
}

/* tell shows or asks one thing; the reply, if it must be another than want, fails. */
static int tell(pam_handle_t *h, int style, const char *text, const char *want)
{
	struct pam_message m = { style, text };
	const struct pam_message *mp = &m;
	struct pam_response *r = NULL;
	int code = converse(h, 1, &mp, &r);
	if (code == PAM_SUCCESS && want != NULL && (r == NULL || r[0].resp == NULL || strcmp(r[0].resp, want) != 0))
		code = PAM_AUTH_ERR;
	if (r != NULL)
		free(r[0].resp);
	free(r);
	return code;
}

/* both sends four messages in one call. */
static int both(pam_handle_t *h)
{
	struct pam_message m[4] = {
		{ PAM_TEXT_INFO, "a line\nand another" }, { PAM_PROMPT_ECHO_OFF, "First: " },
		{ PAM_ERROR_MSG, "not yet" }, { PAM_PROMPT_ECHO_ON, "Second: " },
	};
	const struct pam_message *mp[4] = { &m[0], &m[1], &m[2], &m[3] };
	struct pam_response *r = NULL;
	int code = converse(h, 4, mp, &r);
	if (code != PAM_SUCCESS)
		return code;
	if (strcmp(r[1].resp, "one") != 0 || strcmp(r[3].resp, "two") != 0)
		code = PAM_AUTH_ERR;
	for (int i = 0; i < 4; i++)
		free(r[i].resp);
	free(r);
	return code;
}

static int item_is(pam_handle_t *h, int item, const char *want)
{
	const char *v = NULL;
	return pam_get_item(h, item, (const void **)&v) == PAM_SUCCESS && v != NULL && strcmp(v, want) == 0;
}

static void crash(void)
{
	volatile int *volatile p = NULL; /* twice: gcc leaves the store out else */
	*p = 1;
}

static void crash_later(pam_handle_t *h, void *data, int status)
{
	(void)h, (void)data, (void)status;
	crash();
}

/* leave has a process outlive us in a session of its own. */
static void leave(void)
{
	if (fork() == 0) {
		setsid();
		if (fork() == 0)
			execl("/bin/sleep", "sleep", "98765", (char *)NULL);
		_exit(0);
	}
	usleep(100000);
}

int pam_sm_authenticate(pam_handle_t *h, int flags, int argc, const char **argv)
{
	const char *what = argc > 0 ? argv[0] : "";
	int code = PAM_SUCCESS;
	char text[9000];
	(void)flags;

	if (strcmp(what, "hang") == 0) {
		for (;;)
			pause();
	} else if (strcmp(what, "stubborn") == 0) {
		sigset_t all;
		sigfillset(&all);
		sigprocmask(SIG_BLOCK, &all, NULL);
		leave();
		for (;;)
			pause();
	} else if (strcmp(what, "askhang") == 0) {
		tell(h, PAM_PROMPT_ECHO_OFF, "Password: ", NULL);
		for (;;)
			pause();
	} else if (strcmp(what, "crash") == 0) {
		crash();
	} else if (strcmp(what, "askcrash") == 0) {
		tell(h, PAM_PROMPT_ECHO_OFF, "Password: ", NULL);
		crash();
	} else if (strcmp(what, "endcrash") == 0) {
		pam_set_data(h, "odd", text, crash_later);
	} else if (strcmp(what, "exit") == 0) {
		_exit(0);
	} else if (strcmp(what, "kill") == 0) {
		kill(getpid(), SIGKILL);
	} else if (strcmp(what, "leave") == 0) {
		leave();
	} else if (strncmp(what, "ask=", 4) == 0) {
		for (int i = 1; i <= atoi(what + 4) && code == PAM_SUCCESS; i++) {
			snprintf(text, sizeof text, "Question %d: ", i);
			code = tell(h, PAM_PROMPT_ECHO_ON, text, "yes");
		}
	} else if (strcmp(what, "both") == 0) {
		code = both(h);
	} else if (strcmp(what, "binary") == 0) {
		code = tell(h, PAM_BINARY_PROMPT, "\0\0\0\5x", NULL);
	} else if (strcmp(what, "flood") == 0) {
		for (int i = 0; i < 500; i++)
			tell(h, PAM_TEXT_INFO, "once more", NULL);
		code = tell(h, PAM_PROMPT_ECHO_ON, "Enough? ", "yes");
	} else if (strcmp(what, "strange") == 0) {
		memset(text, 'x', sizeof text);
		memcpy(text, "a\x1b[2Jb\r\xff\xc2\x9b" "c\n", 12);
		text[sizeof text - 1] = '\0';
		code = tell(h, PAM_PROMPT_ECHO_ON, text, "yes");
	} else if (strcmp(what, "env") == 0) {
		const char *in = pam_getenv(h, "SEKISHO_TEST");
		if (in == NULL || strcmp(in, "i n\n=") != 0 || !item_is(h, PAM_RHOST, "203.0.113.9") ||
		    !item_is(h, PAM_TTY, "ssh") || !item_is(h, PAM_RUSER, "eve"))
			return PAM_AUTH_ERR;
		pam_putenv(h, "ODD=out\n\x01=");
		pam_putenv(h, "EMPTY=");
		if (getenv("HOME") != NULL || getenv("SEKISHO_SECRET") != NULL)
			return PAM_AUTH_ERR;
	} else if (strcmp(what, "manyenv") == 0) {
		for (int i = 0; i < 100; i++) {
			snprintf(text, sizeof text, "V%d=x", i);
			pam_putenv(h, text);
		}
	} else if (strcmp(what, "bigenv") == 0) {
		memset(text, 'V', sizeof text);
		text[1] = '=';
		text[sizeof text - 1] = '\0';
		pam_putenv(h, text);
	} else if (strncmp(what, "user=", 5) == 0) {
		pam_set_item(h, PAM_USER, what + 5);
	} else if (strncmp(what, "code=", 5) == 0) {
		code = atoi(what + 5);
	} else {
		code = PAM_SERVICE_ERR;
	}
	return code;
}

int pam_sm_acct_mgmt(pam_handle_t *h, int flags, int argc, const char **argv)
{
	(void)h, (void)flags;
	if (argc > 0 && strncmp(argv[0], "acct=", 5) == 0)
		return atoi(argv[0] + 5);
	return PAM_SUCCESS;
}

int pam_sm_setcred(pam_handle_t *h, int flags, int argc, const char **argv)
{
	(void)h, (void)flags, (void)argc, (void)argv;
	return PAM_SUCCESS;
}
