#include "wire.h"

#include <stdlib.h>
#include <string.h>

static bool plain(unsigned char c) { return c > ' ' && c < 0x7f && c != '%'; }

static bool control(unsigned char c) { return c < ' ' || c == 0x7f; }

/* room returns where n more bytes go, or NULL, after which r is void. */
static char *room(struct request *r, size_t n)
{
	if (r->len == 0 || n > WIRE_MAX_LINE - r->len) {
		r->len = 0;
		return NULL;
	}
	char *p = r->buf + r->len;
	r->len += n;
	return p;
}

static void put(struct request *r, const char *s)
{
	size_t n = strlen(s);
	char *p = room(r, n);
	if (p != NULL)
		memcpy(p, s, n);
}

/* request_begin starts a request. The verb, and the names of fields, are the
 * caller's own and good. */
void request_begin(struct request *r, const char *verb)
{
	r->len = 0;
	r->buf = malloc(WIRE_MAX_LINE);
	if (r->buf == NULL)
		return;
	memcpy(r->buf, "1 ", 2);
	r->len = 2;
	put(r, verb);
}

/* request_field adds one field; a value of NULL adds none. */
void request_field(struct request *r, const char *name, const char *value)
{
	static const char digits[16] = { '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F' };
	if (value == NULL)
		return;
	put(r, " ");
	put(r, name);
	put(r, "=");
	for (; *value != 0 && r->len != 0; value++) {
		unsigned char c = (unsigned char)*value;
		char *p = room(r, plain(c) ? 1 : 3);
		if (p == NULL)
			return;
		if (plain(c)) {
			*p = (char)c;
			continue;
		}
		p[0] = '%';
		p[1] = digits[c >> 4];
		p[2] = digits[c & 15];
	}
}

/* request_end reports whether buf now holds len bytes to send; it does not when
 * the request is over WIRE_MAX_LINE, or there was no memory. */
bool request_end(struct request *r)
{
	put(r, "\n");
	return r->len != 0;
}

/* request_free wipes r; it may be called twice. */
void request_free(struct request *r)
{
	if (r->buf != NULL) {
		explicit_bzero(r->buf, WIRE_MAX_LINE);
		free(r->buf);
	}
	r->buf = NULL;
	r->len = 0;
}

void answer_begin(struct answer *a)
{
	memset(a, 0, sizeof *a);
	a->reason = a->text = "";
}

/* answer_free wipes all that arrived; it may be called twice. */
void answer_free(struct answer *a)
{
	if (a->buf != NULL) {
		explicit_bzero(a->buf, a->cap);
		free(a->buf);
	}
	answer_begin(a);
}

static enum progress bad(struct answer *a, const char *why)
{
	a->outcome = OUTCOME_UNKNOWN;
	a->reason = a->text = "";
	a->lines = 0;
	a->bad = why;
	return ANSWER_BAD;
}

/* answer_room returns where the next bytes go and how many may; NULL without
 * memory. No copy of what arrived is left behind. */
char *answer_room(struct answer *a, size_t *n)
{
	if (a->len == a->cap) {
		size_t cap = a->cap == 0 ? 4096 : 2 * a->cap;
		if (cap > WIRE_MAX_ANSWER + 1)
			cap = WIRE_MAX_ANSWER + 1; /* one more shows that it is too long */
		char *buf = cap > a->cap ? malloc(cap) : NULL;
		if (buf == NULL) {
			bad(a, "no memory for it");
			return NULL;
		}
		if (a->buf != NULL) {
			memcpy(buf, a->buf, a->len);
			explicit_bzero(a->buf, a->cap);
			free(a->buf);
		}
		a->buf = buf;
		a->cap = cap;
	}
	*n = a->cap - a->len;
	return a->buf + a->len;
}

/* word cuts the next word off *s, which becomes NULL after the last one. */
static char *word(char **s)
{
	char *w = *s, *space = strchr(w, ' ');
	*s = NULL;
	if (space != NULL) {
		*space = 0;
		*s = space + 1;
	}
	return w;
}

/* number reads decimal digits without a leading zero, at most max. */
static bool number(const char *s, unsigned max, unsigned *n)
{
	size_t len = strlen(s);
	if (len == 0 || len > 9 || (s[0] == '0' && len > 1))
		return false;
	*n = 0;
	for (; *s != 0; s++) {
		if (*s < '0' || *s > '9')
			return false;
		*n = *n * 10 + (unsigned)(*s - '0');
	}
	return *n <= max;
}

static bool is_name(const char *s, size_t max)
{
	size_t n = strlen(s);
	if (n == 0 || n > max || s[0] < 'a' || s[0] > 'z')
		return false;
	for (; *s != 0; s++)
		if ((*s < 'a' || *s > 'z') && (*s < '0' || *s > '9') && *s != '-')
			return false;
	return true;
}

static int unhex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* unescape decodes a text in place: in its one spelling, not empty, at most
 * WIRE_MAX_TEXT bytes, and without control characters. */
static bool unescape(char *s)
{
	const char *in = s;
	char *out = s;
	while (*in != 0) {
		unsigned char c = (unsigned char)*in++;
		if (c == '%') {
			int hi = unhex(in[0]), lo = hi < 0 ? -1 : unhex(in[1]);
			if (lo < 0)
				return false;
			c = (unsigned char)(hi << 4 | lo);
			if (plain(c) || control(c))
				return false;
			in += 2;
		} else if (!plain(c)) {
			return false;
		}
		*out++ = (char)c;
	}
	*out = 0;
	return out != s && out - s <= WIRE_MAX_TEXT;
}

/* header reads the header line, which ends in NUL. */
static enum progress header(struct answer *a, char *rest)
{
	unsigned version;
	const char *w = word(&rest);
	if (!number(w, 99999, &version) || version == 0)
		return bad(a, "it does not begin with a protocol version");
	if (version != 1)
		return bad(a, "it is of another version of the protocol: install the same sekisho release for sekishod and pam_sekisho.so");
	if (rest == NULL)
		return bad(a, "it has no outcome");
	w = word(&rest);
	if (strcmp(w, "yes") == 0)
		a->outcome = OUTCOME_YES;
	else if (strcmp(w, "no") == 0)
		a->outcome = OUTCOME_NO;
	else if (strcmp(w, "unknown") != 0)
		return bad(a, "there is no such outcome");
	if (rest == NULL)
		return bad(a, "it has no count of body lines");
	if (!number(word(&rest), WIRE_MAX_BODY_LINES, &a->lines))
		return bad(a, "its count of body lines is no number, or too high");
	while (rest != NULL) {
		char *field = word(&rest);
		if (strncmp(field, "reason=", 7) == 0 && a->reason_at == 0 && a->text_at == 0) {
			if (!is_name(field + 7, WIRE_MAX_REASON))
				return bad(a, "its reason is not a name");
			a->reason_at = (size_t)(field + 7 - a->buf);
		} else if (strncmp(field, "text=", 5) == 0 && a->text_at == 0) {
			if (!unescape(field + 5))
				return bad(a, "its text is empty, too long or badly encoded");
			a->text_at = (size_t)(field + 5 - a->buf);
		} else {
			return bad(a, "a word in its header is unknown or out of place");
		}
	}
	return ANSWER_MORE;
}

/* scan looks at the bytes that are new. Each line's newline becomes a NUL. */
static enum progress scan(struct answer *a)
{
	while (a->body == 0 || a->seen < a->lines) {
		size_t limit = a->body == 0 ? WIRE_MAX_LINE - 1 : WIRE_MAX_BODY_LINE;
		while (a->at < a->len && a->buf[a->at] != '\n') {
			if (control((unsigned char)a->buf[a->at]))
				return bad(a, "a control character is in it");
			a->at++;
		}
		if (a->at - a->line > limit)
			return bad(a, "a line of it is too long");
		if (a->at >= WIRE_MAX_ANSWER)
			return bad(a, "it is too long");
		if (a->at == a->len)
			return ANSWER_MORE;
		a->buf[a->at++] = 0;
		if (a->body != 0) {
			a->seen++;
		} else {
			a->body = a->at;
			if (header(a, a->buf) == ANSWER_BAD)
				return ANSWER_BAD;
		}
		a->line = a->at;
	}
	return a->at == a->len ? ANSWER_WHOLE : bad(a, "bytes follow its end");
}

/* answer_took takes n bytes, more than none, at what answer_room returned. Only
 * after ANSWER_WHOLE does a hold an answer; after ANSWER_BAD it is of no use but
 * for a->bad. */
enum progress answer_took(struct answer *a, size_t n)
{
	a->len += n;
	enum progress p = scan(a);
	if (p == ANSWER_WHOLE) {
		if (a->reason_at != 0)
			a->reason = a->buf + a->reason_at;
		if (a->text_at != 0)
			a->text = a->buf + a->text_at;
	}
	return p;
}

/* answer_line returns the body line after the one before, the first for NULL;
 * NULL after the last. A line ends in NUL and has none within. */
char *answer_line(const struct answer *a, char *before)
{
	if (a->lines == 0)
		return NULL;
	char *line = before == NULL ? a->buf + a->body : before + strlen(before) + 1;
	return line == a->buf + a->len ? NULL : line;
}
