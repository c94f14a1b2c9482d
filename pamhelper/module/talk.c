#include "sekisho.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>

#include <security/pam_ext.h>

/* failed logs why there is no answer, which a then says. */
static void failed(struct call *c, struct answer *a, const struct fault *f)
{
	if (f->err != 0)
		note(c, LOG_ERR, "%s: %s: %s", c->opt.socket, f->what, strerror(f->err));
	else
		note(c, LOG_ERR, "%s: %s", c->opt.socket, f->what);
	call_end(c);
	answer_free(a);
}

static bool receive(struct call *c, struct answer *a, int64_t until, struct fault *f)
{
	for (;;) {
		size_t room;
		char *buf = answer_room(a, &room);
		if (buf == NULL) {
			f->what = a->bad;
			f->err = 0;
			return false;
		}
		ssize_t n = conn_recv(c->fd, buf, room, until, f);
		if (n < 0)
			return false;
		switch (answer_took(a, (size_t)n)) {
		case ANSWER_WHOLE:
			return true;
		case ANSWER_MORE:
			break;
		case ANSWER_BAD:
			f->what = a->bad;
			f->err = 0;
			return false;
		}
	}
}

/* ask sends r, which it frees, and reads the answer, all within the module's
 * timeout; the first time, it connects. Whatever goes wrong is logged, ends the
 * connection, and leaves a as "could not find out". The caller frees a. */
void ask(struct call *c, struct request *r, struct answer *a)
{
	struct fault f = { "the question does not fit sekishod's protocol", 0 };
	int64_t until = clock_ms() + c->opt.timeout;
	answer_begin(a);
	bool ok = request_end(r), sent = false;
	if (ok && c->fd < 0)
		ok = (c->fd = conn_open(&c->opt, until, &f)) >= 0;
	else if (ok)
		ok = conn_quiet(c->fd, &f);
	if (ok)
		sent = conn_send(c->fd, r->buf, r->len, until, &f);
	request_free(r);
	if (!ok) {
		failed(c, a, &f);
		return;
	}
	if (!sent) {
		/* Who is turned away unread has been told why; that is no answer. */
		struct fault ignored;
		if ((f.err == EPIPE || f.err == ECONNRESET) && receive(c, a, until, &ignored) && a->outcome == OUTCOME_UNKNOWN)
			note(c, LOG_ERR, "sekishod turned this connection away: %s (%s)", a->text, a->reason);
		failed(c, a, &f);
		return;
	}
	if (!receive(c, a, until, &f)) {
		failed(c, a, &f);
		return;
	}
	debug(c, "sekishod says %s, reason \"%s\", with %u lines",
		a->outcome == OUTCOME_YES ? "yes" : a->outcome == OUTCOME_NO ? "no" : "unknown", a->reason, a->lines);
	if (a->outcome == OUTCOME_UNKNOWN)
		note(c, LOG_ERR, "sekishod could not find out: %s (%s)", *a->text != 0 ? a->text : "it does not say why", a->reason);
}

enum kind { KIND_INFO, KIND_ERROR, KIND_PASSWORD, KIND_NEW_PASSWORD, KIND_SECRET, KIND_VISIBLE };

static const struct {
	const char *word;
	int style;
	bool reply;
} kinds[] = {
	[KIND_INFO] = { "info", PAM_TEXT_INFO, false },
	[KIND_ERROR] = { "error", PAM_ERROR_MSG, false },
	[KIND_PASSWORD] = { "password", PAM_PROMPT_ECHO_OFF, true },
	[KIND_NEW_PASSWORD] = { "new-password", PAM_PROMPT_ECHO_OFF, true },
	[KIND_SECRET] = { "secret", PAM_PROMPT_ECHO_OFF, true },
	[KIND_VISIBLE] = { "visible", PAM_PROMPT_ECHO_ON, true },
};

/* One line of an answer that asks. */
struct prompt {
	enum kind kind;
	const char *text;
	const char *kept; /* the reply, from an item of PAM; NULL: the user is asked */
	char *typed;      /* the reply, ours to wipe and free */
};

/* A round of a conversation, and what the rounds before have used up. */
struct round {
	enum purpose purpose;
	struct prompt prompts[MAX_PROMPTS];
	unsigned n, replies;
	bool used_old, used_new; /* the items were tried */
	bool typed_new;          /* PAM_AUTHTOK holds a new password from here */
};

static bool parse_prompts(struct round *r, const struct answer *a)
{
	r->n = r->replies = 0;
	for (char *line = answer_line(a, NULL); line != NULL; line = answer_line(a, line)) {
		const char *space = strchr(line, ' ');
		if (space == NULL || r->n == MAX_PROMPTS || strlen(space + 1) > MAX_PROMPT)
			return false;
		size_t k = 0, len = (size_t)(space - line), end = sizeof kinds / sizeof kinds[0];
		while (k < end && (strlen(kinds[k].word) != len || memcmp(kinds[k].word, line, len) != 0))
			k++;
		if (k == end || (kinds[k].reply && ++r->replies > MAX_REPLIES))
			return false;
		r->prompts[r->n++] = (struct prompt){ .kind = (enum kind)k, .text = space + 1 };
	}
	return true;
}

/* take_kept answers prompts from what an earlier module, or call, has asked for.
 * A password is tried once: whoever is asked for it again has to type it. */
static int take_kept(const struct call *c, struct round *r)
{
	bool first = c->opt.use_first_pass, may = first || c->opt.try_first_pass, tried_new = r->used_new;
	for (unsigned i = 0; i < r->n; i++) {
		struct prompt *p = &r->prompts[i];
		if (p->kind == KIND_PASSWORD) {
			/* The old password was asked for in the check, by this same change. */
			if ((may || r->purpose == PURPOSE_CHANGE) && !r->used_old)
				p->kept = call_item(c, r->purpose == PURPOSE_AUTH ? PAM_AUTHTOK : PAM_OLDAUTHTOK);
			r->used_old = true;
			if (first && p->kept == NULL) {
				note(c, LOG_NOTICE, "use_first_pass is set, and there is no password from the modules before, or it was not the right one");
				return PAM_AUTH_ERR;
			}
		} else if (p->kind == KIND_NEW_PASSWORD && r->purpose != PURPOSE_AUTH) {
			if (may && !tried_new) /* both of "new" and "again" */
				p->kept = call_item(c, PAM_AUTHTOK);
			r->used_new = true;
			if (first && p->kept == NULL) {
				note(c, LOG_NOTICE, "use_first_pass is set, and there is no new password from the modules before, or it was refused");
				return PAM_AUTHTOK_ERR;
			}
		}
	}
	return PAM_SUCCESS;
}

/* free_typed wipes all that was typed in this round. */
static void free_typed(struct round *r)
{
	for (unsigned i = 0; i < r->n; i++) {
		if (r->prompts[i].typed != NULL)
			wipe_free(r->prompts[i].typed, strlen(r->prompts[i].typed));
		r->prompts[i].typed = NULL;
	}
}

/* ask_user shows all messages of a round in one call of the conversation, so that
 * a graphical program makes one window of them. */
static int ask_user(const struct call *c, struct round *r)
{
	struct pam_message messages[MAX_PROMPTS];
	const struct pam_message *pointers[MAX_PROMPTS]; /* into one array, which suits programs that expect that */
	unsigned from[MAX_PROMPTS];
	int n = 0;
	for (unsigned i = 0; i < r->n; i++) {
		const struct prompt *p = &r->prompts[i];
		if (p->kept != NULL || (!kinds[p->kind].reply && (c->flags & PAM_SILENT) != 0))
			continue;
		from[n] = i;
		messages[n] = (struct pam_message){ kinds[p->kind].style, p->text };
		pointers[n] = &messages[n];
		n++;
	}
	if (n == 0)
		return PAM_SUCCESS;
	const void *item = NULL;
	if (pam_get_item(c->pamh, PAM_CONV, &item) != PAM_SUCCESS || item == NULL)
		return PAM_CONV_ERR;
	const struct pam_conv *conv = item;
	if (conv->conv == NULL)
		return PAM_CONV_ERR;
	struct pam_response *resp = NULL;
	int rc = conv->conv(n, pointers, &resp, conv->appdata_ptr);
	if (rc != PAM_SUCCESS) /* resp is not ours then: pam_conv(3) */
		return rc == PAM_CONV_AGAIN ? PAM_INCOMPLETE : rc == PAM_BUF_ERR ? PAM_BUF_ERR : PAM_CONV_ERR;
	for (int i = 0; i < n && resp != NULL; i++)
		r->prompts[from[i]].typed = resp[i].resp;
	free(resp);
	for (int i = 0; i < n; i++)
		if (kinds[r->prompts[from[i]].kind].reply && r->prompts[from[i]].typed == NULL)
			return PAM_CONV_ERR;
	return PAM_SUCCESS;
}

/* judge refuses replies that may not be sent. */
static int judge(const struct call *c, const struct round *r)
{
	for (unsigned i = 0; i < r->n; i++) {
		const struct prompt *p = &r->prompts[i];
		const char *s = p->kept != NULL ? p->kept : p->typed;
		if (!kinds[p->kind].reply)
			continue;
		if (strlen(s) > MAX_REPLY) {
			note(c, LOG_NOTICE, "a reply is longer than %d bytes: refused", MAX_REPLY);
			return p->kind == KIND_NEW_PASSWORD && r->purpose != PURPOSE_AUTH ? PAM_AUTHTOK_ERR : PAM_AUTH_ERR;
		}
		if (*s == 0 && p->kind == KIND_PASSWORD && r->purpose == PURPOSE_AUTH && (c->flags & PAM_DISALLOW_NULL_AUTHTOK) != 0) {
			debug(c, "the password is empty, which the program does not allow");
			return PAM_AUTH_ERR;
		}
	}
	return PAM_SUCCESS;
}

/* reply writes the next request. */
static void reply(const struct round *r, struct request *q)
{
	char name[3] = "a0";
	request_begin(q, "answer");
	for (unsigned i = 0; i < r->n; i++) {
		const struct prompt *p = &r->prompts[i];
		if (!kinds[p->kind].reply)
			continue;
		name[1]++;
		request_field(q, name, p->kept != NULL ? p->kept : p->typed);
	}
}

/* keep stores what was typed for the modules that follow, and for the calls that do. */
static int keep(struct call *c, struct round *r)
{
	for (unsigned i = 0; i < r->n; i++) {
		const struct prompt *p = &r->prompts[i];
		int rc = PAM_SUCCESS;
		if (p->typed == NULL)
			continue;
		if (p->kind == KIND_PASSWORD)
			rc = pam_set_item(c->pamh, r->purpose == PURPOSE_AUTH ? PAM_AUTHTOK : PAM_OLDAUTHTOK, p->typed);
		if (p->kind == KIND_NEW_PASSWORD) {
			r->typed_new = true;
			rc = pam_set_item(c->pamh, PAM_AUTHTOK, p->typed);
		}
		if (rc != PAM_SUCCESS)
			return PAM_BUF_ERR;
	}
	return PAM_SUCCESS;
}

/* one_round answers the prompts of a and writes the next request. */
static int one_round(struct call *c, struct round *r, const struct answer *a, struct request *q)
{
	if (!parse_prompts(r, a)) {
		note(c, LOG_ERR, "sekishod asks in a way that pam_sekisho.so does not understand: install the same sekisho release of both");
		return PAM_AUTHINFO_UNAVAIL;
	}
	int rc = take_kept(c, r);
	if (rc == PAM_SUCCESS)
		rc = ask_user(c, r);
	if (rc == PAM_SUCCESS)
		rc = judge(c, r);
	if (rc == PAM_SUCCESS) {
		reply(r, q);
		rc = keep(c, r); /* after reply: it may free what kept points to */
	}
	free_typed(r);
	return rc;
}

/* converse begins a conversation with q, which it frees, and answers prompts until
 * a holds an answer that asks for nothing: then PAM_SUCCESS, whatever the answer.
 * Any other code ends the call. The caller frees a in either case. */
int converse(struct call *c, enum purpose purpose, struct request *q, struct answer *a)
{
	struct round *r = calloc(1, sizeof *r);
	int rc = PAM_SUCCESS;
	if (r == NULL) {
		request_free(q);
		answer_begin(a);
		return PAM_BUF_ERR;
	}
	r->purpose = purpose;
	ask(c, q, a);
	for (int i = 0; rc == PAM_SUCCESS && a->outcome == OUTCOME_NO && strcmp(a->reason, "prompt") == 0; i++) {
		if (i == MAX_ROUNDS) {
			note(c, LOG_ERR, "sekishod asked more than %d times", MAX_ROUNDS);
			rc = PAM_AUTHINFO_UNAVAIL;
			break;
		}
		rc = one_round(c, r, a, q);
		if (rc == PAM_SUCCESS) {
			answer_free(a);
			ask(c, q, a);
		}
		request_free(q);
	}
	if (r->typed_new && (rc != PAM_SUCCESS || a->outcome != OUTCOME_YES))
		pam_set_item(c->pamh, PAM_AUTHTOK, NULL); /* it did not become the password */
	free(r);
	return rc;
}

/* show shows a's text and the info lines of its body. */
void show(const struct call *c, const struct answer *a)
{
	if ((c->flags & PAM_SILENT) != 0)
		return;
	for (char *line = answer_line(a, NULL); line != NULL; line = answer_line(a, line))
		if (strncmp(line, "info ", 5) == 0)
			pam_prompt(c->pamh, PAM_TEXT_INFO, NULL, "%s", line + 5);
	if (*a->text != 0)
		pam_prompt(c->pamh, a->outcome == OUTCOME_YES ? PAM_TEXT_INFO : PAM_ERROR_MSG, NULL, "%s", a->text);
}
