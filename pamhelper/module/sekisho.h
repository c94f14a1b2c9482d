/* What the files of pam_sekisho.so share. No file has a variable that can be
 * written: all that lasts is in PAM's own handle (state.c). */
#ifndef SEKISHO_H
#define SEKISHO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <security/pam_modules.h>

#include "wire.h"

enum {
	MAX_USER = 256,      /* bytes of a user's name (LOGIN_NAME_MAX) */
	MAX_REPLY = 4096,    /* bytes of a reply to a prompt */
	MAX_REPLIES = 8,     /* asked for in one answer */
	MAX_PROMPTS = 32,    /* lines of one answer that asks (PAM_MAX_NUM_MSG) */
	MAX_PROMPT = 512,    /* bytes of a prompt's text (PAM_MAX_MSG_SIZE) */
	MAX_ROUNDS = 16,     /* answers that ask, in one conversation */
	MAX_SESSION = 64,    /* bytes of a session's id */
	TOKEN_LEN = 43,      /* a sign-in's token */
	NAME_LEN = 22,       /* the name of a ticket folder */
	MAX_PATH = 256,      /* the socket's path is shorter than 108, see unix(7) */
};

#define LOGIN_ENV "SEKISHO_LOGIN"
#define SESSION_ENV "SEKISHO_SESSION"
#define CCACHE_ENV "KRB5CCNAME"
#define AUTHINFO_ENV "SSH_AUTH_INFO_0"

/* The options of the line in pam.d. */
struct options {
	bool use_first_pass;
	bool try_first_pass;
	bool debug;
	int timeout;        /* milliseconds that an answer may take */
	const char *socket; /* absolute path */
};

/* Why something failed, for the log: a sentence, and errno's value or 0. It
 * holds no secret. */
struct fault {
	const char *what;
	int err;
};

/* What outlasts a call: it belongs to the PAM handle and ends with it. A child
 * of the caller has a copy. */
struct state {
	char login[TOKEN_LEN + 1];     /* secret; empty for none */
	char user[MAX_USER + 1];       /* who signed in; empty for nobody */
	char session[MAX_SESSION + 1]; /* empty for none */
	char dir[NAME_LEN + 1];        /* of the tickets made here; empty for none */
	uid_t uid;                     /* of the folder's owner */
	bool settled;                  /* sekishod has given this sign-in's tickets, or said that there are none */
	enum { AGE_UNKNOWN, AGE_GOOD, AGE_EXPIRED } age; /* of the password, by the last account call */
};

/* One call of one of the six functions. */
struct call {
	pam_handle_t *pamh;
	unsigned flags;
	struct options opt;
	char user[MAX_USER + 1]; /* a copy: a conversation may change PAM's */
	const char *service;
	struct state *state;
	int fd; /* the connection; -1 for none */
};

/* options.c */
int options_read(pam_handle_t *pamh, int argc, const char **argv, struct options *o);

/* state.c */
int call_begin(struct call *c, pam_handle_t *pamh, int flags, int argc, const char **argv);
void call_end(struct call *c);
const char *call_item(const struct call *c, int item);
const char *call_login(const struct call *c);
void login_set(struct call *c, const char *token);
void login_adopt(struct call *c);
void login_hide(struct call *c);
void login_forget(struct call *c);
int env_put(struct call *c, const char *name, const char *value);
bool is_opaque(const char *s, size_t min, size_t max);
void wipe_free(void *p, size_t n);
void note(const struct call *c, int priority, const char *format, ...) __attribute__((format(printf, 3, 4)));
void debug(const struct call *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* dial.c */
int64_t clock_ms(void);
int fd_high(int fd);
bool folder_guard(const char *path, uid_t *owner, struct fault *f);
int conn_open(const struct options *o, int64_t until, struct fault *f);
bool conn_quiet(int fd, struct fault *f);
bool conn_send(int fd, const char *buf, size_t len, int64_t until, struct fault *f);
ssize_t conn_recv(int fd, char *buf, size_t room, int64_t until, struct fault *f);

/* talk.c */
enum purpose { PURPOSE_AUTH, PURPOSE_CHECK, PURPOSE_CHANGE };
void ask(struct call *c, struct request *r, struct answer *a);
int converse(struct call *c, enum purpose purpose, struct request *r, struct answer *a);
void show(const struct call *c, const struct answer *a);

/* cache.c */
int cache_make(struct call *c, const char *name, char *data, size_t len);
int cache_remove(struct call *c);
bool cache_name(const struct call *c, const char *dir, char *buf, size_t room);
bool cache_is_ours(const struct call *c, const char *ccname);

#endif
