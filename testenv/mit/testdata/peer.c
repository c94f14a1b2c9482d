/*
 * A GSS-API peer over MIT's library, driven line by line on standard input, for
 * the tests: cc -o peer peer.c -lgssapi_krb5
 *
 *   peer init   krb5|spnego|other FLAGS BINDINGS TARGET     TARGET: service@host
 *   peer accept krb5|spnego BINDINGS
 *
 * other is SPNEGO with the mechanism of othermech.c before Kerberos in its list.
 * FLAGS is GSS-API's ret_flags in hex, BINDINGS text or "-". An initiator begins by
 * answering; then each line on standard input gets an answer of some lines and ".":
 *
 *   token HEX        -> [token HEX] [established PEER FLAGS [delegated NAME]]
 *   mic HEX          -> mic HEX
 *   verify MSG MIC   -> ok
 *   wrap 0|1 HEX     -> wrap HEX
 *   unwrap HEX       -> unwrap 0|1 HEX
 *   store CCACHE     -> ok           (the delegated credentials)
 *
 * or "error MAJOR MINOR TEXT". Empty values are "-".
 */
#include <gssapi/gssapi.h>
#include <gssapi/gssapi_ext.h>
#include <gssapi/gssapi_krb5.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static gss_OID_desc krb5_oid = { 9, "\x2a\x86\x48\x86\xf7\x12\x01\x02\x02" };
static gss_OID_desc spnego_oid = { 6, "\x2b\x06\x01\x05\x05\x02" };
static gss_OID_desc other_first[] = {
	{ 7, "\x2b\x06\x01\x04\x01\x87\x67" },
	{ 9, "\x2a\x86\x48\x86\xf7\x12\x01\x02\x02" },
};

static gss_ctx_id_t ctx = GSS_C_NO_CONTEXT;
static gss_cred_id_t delegated = GSS_C_NO_CREDENTIAL;
static gss_cred_id_t own = GSS_C_NO_CREDENTIAL;
static gss_name_t target = GSS_C_NO_NAME;
static gss_OID mech;
static OM_uint32 want;
static struct gss_channel_bindings_struct bindings, *cb = GSS_C_NO_CHANNEL_BINDINGS;
static int initiator;

static void
text(OM_uint32 code, int type)
{
	OM_uint32 min, more = 0;
	gss_buffer_desc s;

	do {
		gss_display_status(&min, code, type, GSS_C_NO_OID, &more, &s);
		printf(" %.*s", (int)s.length, (char *)s.value);
		gss_release_buffer(&min, &s);
	} while (more);
}

static int
failed(OM_uint32 maj, OM_uint32 min)
{
	if (maj == GSS_S_COMPLETE)
		return 0;
	printf("error %x %x", maj, min);
	text(maj, GSS_C_GSS_CODE);
	text(min, GSS_C_MECH_CODE);
	printf("\n");
	return 1;
}

static void
put(const char *word, gss_buffer_t b)
{
	printf("%s ", word);
	if (b->length == 0)
		printf("-");
	for (size_t i = 0; i < b->length; i++)
		printf("%02x", ((unsigned char *)b->value)[i]);
	printf("\n");
}

static gss_buffer_desc
get(const char *hex)
{
	gss_buffer_desc b = GSS_C_EMPTY_BUFFER;
	unsigned v;

	if (hex == NULL || strcmp(hex, "-") == 0)
		return b;
	b.length = strlen(hex) / 2;
	b.value = malloc(b.length + 1);
	for (size_t i = 0; i < b.length; i++) {
		if (sscanf(hex + 2 * i, "%2x", &v) != 1)
			exit(3);
		((unsigned char *)b.value)[i] = v;
	}
	return b;
}

static void
name(const char *word, gss_name_t n)
{
	OM_uint32 min;
	gss_buffer_desc s;

	if (gss_display_name(&min, n, &s, NULL) != GSS_S_COMPLETE)
		exit(4);
	printf("%s%.*s", word, (int)s.length, (char *)s.value);
}

static void
established(gss_name_t peer, OM_uint32 flags)
{
	OM_uint32 min;
	gss_name_t n;

	name("established ", peer);
	printf(" %x", flags);
	if (delegated != GSS_C_NO_CREDENTIAL &&
	    gss_inquire_cred(&min, delegated, &n, NULL, NULL, NULL) == GSS_S_COMPLETE)
		name(" delegated ", n);
	printf("\n");
}

static void
step(gss_buffer_t in)
{
	OM_uint32 maj, min, flags = 0;
	gss_buffer_desc out = GSS_C_EMPTY_BUFFER;
	gss_name_t src = GSS_C_NO_NAME, there = GSS_C_NO_NAME;

	if (initiator)
		maj = gss_init_sec_context(&min, own, &ctx, target, mech, want, 0, cb, in, NULL, &out, &flags, NULL);
	else
		maj = gss_accept_sec_context(&min, &ctx, own, in, cb, &src, NULL, &out, &flags, NULL, &delegated);
	if (out.length > 0)
		put("token", &out);
	if (maj == GSS_S_CONTINUE_NEEDED)
		return;
	if (failed(maj, min))
		return;
	if (initiator) {
		maj = gss_inquire_context(&min, ctx, NULL, &there, NULL, NULL, NULL, NULL, NULL);
		if (failed(maj, min))
			return;
		src = there;
	}
	established(src, flags);
}

static int
prefer_other(void)
{
	OM_uint32 maj, min;
	gss_OID_set_desc spnego = { 1, &spnego_oid }, list = { 2, other_first };

	maj = gss_acquire_cred(&min, GSS_C_NO_NAME, 0, &spnego, GSS_C_INITIATE, &own, NULL, NULL);
	if (failed(maj, min))
		return 1;
	maj = gss_set_neg_mechs(&min, own, &list);
	return failed(maj, min);
}

static void
store(char *where)
{
	OM_uint32 maj, min;
	gss_key_value_element_desc e = { "ccache", where };
	gss_key_value_set_desc set = { 1, &e };

	maj = gss_store_cred_into(&min, delegated, GSS_C_INITIATE, &krb5_oid, 1, 1, &set, NULL, NULL);
	if (!failed(maj, min))
		printf("ok\n");
}

static void
command(char *line)
{
	char *word = strtok(line, " "), *a = strtok(NULL, " "), *b = strtok(NULL, " ");
	OM_uint32 maj, min;
	int conf;
	gss_buffer_desc x, y, out = GSS_C_EMPTY_BUFFER;

	if (word == NULL || a == NULL)
		exit(5);
	if (strcmp(word, "token") == 0) {
		x = get(a);
		step(&x);
	} else if (strcmp(word, "mic") == 0) {
		x = get(a);
		maj = gss_get_mic(&min, ctx, 0, &x, &out);
		if (!failed(maj, min))
			put("mic", &out);
	} else if (strcmp(word, "verify") == 0) {
		x = get(a);
		y = get(b);
		maj = gss_verify_mic(&min, ctx, &x, &y, NULL);
		if (!failed(maj, min))
			printf("ok\n");
	} else if (strcmp(word, "wrap") == 0) {
		x = get(b);
		maj = gss_wrap(&min, ctx, *a == '1', 0, &x, &conf, &out);
		if (!failed(maj, min))
			put("wrap", &out);
	} else if (strcmp(word, "unwrap") == 0) {
		x = get(a);
		maj = gss_unwrap(&min, ctx, &x, &out, &conf, NULL);
		if (!failed(maj, min))
			put(conf ? "unwrap 1" : "unwrap 0", &out);
	} else if (strcmp(word, "store") == 0) {
		store(a);
	} else {
		exit(6);
	}
}

int
main(int argc, char **argv)
{
	static char line[1 << 20];
	char *bind;
	OM_uint32 maj, min;

	setvbuf(stdout, NULL, _IOFBF, 1 << 20);
	if (argc < 4)
		return 2;
	initiator = strcmp(argv[1], "init") == 0;
	mech = strcmp(argv[2], "krb5") == 0 ? &krb5_oid : &spnego_oid;
	if (strcmp(argv[2], "other") == 0 && prefer_other())
		return 2;
	bind = argv[3];
	if (initiator) {
		gss_buffer_desc b;

		if (argc != 6)
			return 2;
		want = strtoul(argv[3], NULL, 16);
		bind = argv[4];
		b.value = argv[5];
		b.length = strlen(argv[5]);
		maj = gss_import_name(&min, &b, GSS_C_NT_HOSTBASED_SERVICE, &target);
		if (failed(maj, min))
			return 2;
	}
	if (strcmp(bind, "-") != 0) {
		cb = &bindings;
		bindings.application_data.value = bind;
		bindings.application_data.length = strlen(bind);
	}
	if (initiator) {
		step(GSS_C_NO_BUFFER);
		printf(".\n");
		fflush(stdout);
	}
	while (fgets(line, sizeof(line), stdin) != NULL) {
		line[strcspn(line, "\n")] = 0;
		command(line);
		printf(".\n");
		fflush(stdout);
	}
	return 0;
}
