/*
 * Asks MIT's library what it reads from the files of KRB5_CONFIG. Each line of
 * standard input is a question, its words apart by tabs; each answer is one line
 * of words in hexadecimal, or "error".
 */
#include <ctype.h>
#include <krb5.h>
#include <profile.h>
#include <stdio.h>
#include <string.h>

static void word(const char *s)
{
	putchar(' ');
	putchar('.');
	for (; *s; s++)
		printf("%02x", (unsigned char)*s);
}

static int answer(krb5_context ctx, profile_t p, char **w, int n)
{
	if (!strcmp(w[0], "values")) {
		char **out;
		const char *names[8];
		int i;
		for (i = 1; i < n && i < 8; i++)
			names[i - 1] = w[i];
		names[i - 1] = NULL;
		if (profile_get_values(p, names, &out))
			return 0;	/* none */
		for (i = 0; out[i]; i++)
			word(out[i]);
		profile_free_list(out);
		return 0;
	}
	if (!strcmp(w[0], "realm")) {
		char *realm;
		if (krb5_get_default_realm(ctx, &realm))
			return -1;
		word(realm);
		return 0;
	}
	if (!strcmp(w[0], "hostrealm")) {
		char **realms;
		if (krb5_get_host_realm(ctx, w[1], &realms))
			return -1;
		word(realms[0]);
		return 0;
	}
	if (!strcmp(w[0], "delta")) {
		krb5_deltat d;
		char text[32];
		if (krb5_string_to_deltat(w[1], &d))
			return -1;
		snprintf(text, sizeof text, "%ld", (long)d);
		word(text);
		return 0;
	}
	if (!strcmp(w[0], "etypes")) {
		krb5_enctype *e;
		char text[32];
		if (krb5_get_permitted_enctypes(ctx, &e))
			return -1;
		for (; *e; e++) {
			snprintf(text, sizeof text, "%d", (int)*e);
			word(text);
		}
		return 0;
	}
	if (!strcmp(w[0], "cache")) {
		word(krb5_cc_default_name(ctx));
		return 0;
	}
	return -1;
}

int main(void)
{
	krb5_context ctx;
	profile_t p;
	char line[8192], *w[16];

	if (krb5_init_context(&ctx) || krb5_get_profile(ctx, &p)) {
		puts("refused");
		return 0;
	}
	puts("read");
	while (fgets(line, sizeof line, stdin)) {
		int n = 0;
		char *s = line;
		line[strcspn(line, "\n")] = 0;
		for (; s && n < 16; n++) {
			w[n] = s;
			s = strchr(s, '\t');
			if (s)
				*s++ = 0;
		}
		if (answer(ctx, p, w, n))
			printf(" error");
		putchar('\n');
	}
	return 0;
}
