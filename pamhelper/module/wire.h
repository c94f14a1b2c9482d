/* The line protocol of sekishod's sockets, version 1, the client's side: see the
 * package comment of wire, which specifies it. Pure: no file, socket or clock. */
#ifndef SEKISHO_WIRE_H
#define SEKISHO_WIRE_H

#include <stdbool.h>
#include <stddef.h>

enum {
	WIRE_MAX_LINE = 16 << 10,       /* a request, or an answer's header line, with its newline */
	WIRE_MAX_REASON = 64,
	WIRE_MAX_TEXT = 4 << 10,        /* an answer's text, decoded */
	WIRE_MAX_BODY_LINES = 16 << 10,
	WIRE_MAX_BODY_LINE = 64 << 10,  /* without its newline */
	WIRE_MAX_ANSWER = 1 << 20,      /* header and newlines included */
};

/* A request being written. After a failure, len is 0 and stays so. */
struct request {
	char *buf; /* WIRE_MAX_LINE bytes */
	size_t len;
};

void request_begin(struct request *r, const char *verb);
void request_field(struct request *r, const char *name, const char *value);
bool request_end(struct request *r);
void request_free(struct request *r);

enum outcome { OUTCOME_UNKNOWN, OUTCOME_NO, OUTCOME_YES };
enum progress { ANSWER_MORE, ANSWER_WHOLE, ANSWER_BAD };

/* An answer being read, and then read. All zero, it is "could not find out". */
struct answer {
	enum outcome outcome;
	const char *reason; /* "" for none; never NULL after answer_begin */
	const char *text;   /* the same */
	unsigned lines;     /* of the body */

	const char *bad; /* what is wrong with it, after ANSWER_BAD */
	char *buf;
	size_t len, cap;
	size_t at, line, body; /* the next byte to look at; where its line begins; where the body does */
	size_t reason_at, text_at;     /* 0 for none */
	unsigned seen;                 /* body lines found */
};

void answer_begin(struct answer *a);
char *answer_room(struct answer *a, size_t *room);
enum progress answer_took(struct answer *a, size_t n);
char *answer_line(const struct answer *a, char *before);
void answer_free(struct answer *a);

#endif
