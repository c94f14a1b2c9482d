//go:build ignore
// The line above keeps the go tool from compiling this; cc skips it.

/*
 * accept: MIT's GSS-API on both sides of the benchmark of AP-REQs.
 *
 *   accept make SERVICE N FILE   N context tokens for host@NAME with the tickets of
 *                                the default cache, each after its length
 *   accept judge FILE            accepts them in a loop with the default keytab and
 *                                replay cache; prints how many, and the CPU's and
 *                                the wall's nanoseconds
 *
 *     cc -O2 -o accept accept.c -lgssapi_krb5
 */
#include <gssapi/gssapi.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void check(const char *what, OM_uint32 major, OM_uint32 minor)
{
	gss_buffer_desc text;
	OM_uint32 more = 0, m;

	if (!GSS_ERROR(major) && !(major & GSS_S_CONTINUE_NEEDED))
		return;
	gss_display_status(&m, minor, GSS_C_MECH_CODE, GSS_C_NO_OID, &more, &text);
	fprintf(stderr, "%s: %#x: %.*s\n", what, (unsigned)major, (int)text.length, (char *)text.value);
	exit(1);
}

static void make(const char *service, int n, FILE *f)
{
	static const gss_OID_desc krb5 = {9, "\x2a\x86\x48\x86\xf7\x12\x01\x02\x02"};
	gss_buffer_desc text = {strlen(service), (void *)service}, token;
	gss_name_t name;
	OM_uint32 major, minor;

	major = gss_import_name(&minor, &text, GSS_C_NT_HOSTBASED_SERVICE, &name);
	check("importing the name", major, minor);
	while (n-- > 0) {
		gss_ctx_id_t c = GSS_C_NO_CONTEXT;
		uint32_t size;

		major = gss_init_sec_context(&minor, GSS_C_NO_CREDENTIAL, &c, name, (gss_OID)&krb5,
			GSS_C_MUTUAL_FLAG | GSS_C_INTEG_FLAG, 0, NULL, NULL, NULL, &token, NULL, NULL);
		check("making a token", major & ~GSS_S_CONTINUE_NEEDED, minor);
		size = token.length;
		fwrite(&size, sizeof size, 1, f);
		fwrite(token.value, 1, token.length, f);
		gss_release_buffer(&minor, &token);
		gss_delete_sec_context(&minor, &c, NULL);
	}
}

static double since(clockid_t clock, const struct timespec *then)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (now.tv_sec - then->tv_sec) * 1e9 + (now.tv_nsec - then->tv_nsec);
}

static void judge(FILE *f)
{
	gss_buffer_desc *tokens = NULL, reply;
	size_t n = 0;
	uint32_t size;
	OM_uint32 major, minor;
	gss_cred_id_t cred;
	struct timespec cpu, wall;
	double cpu_took, wall_took;

	while (fread(&size, sizeof size, 1, f) == 1) {
		tokens = realloc(tokens, (n + 1) * sizeof *tokens);
		tokens[n].length = size;
		tokens[n].value = malloc(size);
		if (fread(tokens[n].value, 1, size, f) != size)
			exit(1);
		n++;
	}
	major = gss_acquire_cred(&minor, GSS_C_NO_NAME, GSS_C_INDEFINITE, GSS_C_NO_OID_SET, GSS_C_ACCEPT, &cred, NULL, NULL);
	check("acquiring credentials", major, minor);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
	clock_gettime(CLOCK_MONOTONIC, &wall);
	for (size_t i = 0; i < n; i++) {
		gss_ctx_id_t c = GSS_C_NO_CONTEXT;

		major = gss_accept_sec_context(&minor, &c, cred, &tokens[i], GSS_C_NO_CHANNEL_BINDINGS, NULL, NULL, &reply, NULL, NULL, NULL);
		check("accepting a token", major, minor);
		gss_release_buffer(&minor, &reply);
		gss_delete_sec_context(&minor, &c, NULL);
	}
	cpu_took = since(CLOCK_PROCESS_CPUTIME_ID, &cpu);
	wall_took = since(CLOCK_MONOTONIC, &wall);
	printf("%zu %.0f %.0f\n", n, cpu_took, wall_took);
}

int main(int argc, char **argv)
{
	FILE *f;

	if (argc == 5 && strcmp(argv[1], "make") == 0 && (f = fopen(argv[4], "w")) != NULL)
		make(argv[2], atoi(argv[3]), f);
	else if (argc == 3 && strcmp(argv[1], "judge") == 0 && (f = fopen(argv[2], "r")) != NULL)
		judge(f);
	else
		return 2;
	return fclose(f) != 0;
}
