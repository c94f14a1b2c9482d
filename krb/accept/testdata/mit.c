/* MIT's libraries on the other side of the tests.
 *
 *   mit req SERVER [mutual] [subkey] [etypes] [seq] [sum]   prints an AP-REQ and its
 *       keys; with mutual reads the AP-REP and says what krb5_rd_rep finds in it
 *   mit verify          reads AP-REQs, says of each what krb5_rd_req thinks
 *   mit tokens SERVER N FILE   writes N context tokens (length, token) to a file
 *   mit bench FILE      accepts them by gss_accept_sec_context and tells the CPU time
 */
#include <gssapi/gssapi_krb5.h>
#include <krb5.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static krb5_context ctx;

static void die(const char *what, krb5_error_code e)
{
    fprintf(stderr, "%s: %s\n", what, e ? krb5_get_error_message(ctx, e) : "failed");
    exit(1);
}

#define CHECK(call) do { krb5_error_code e_ = (call); if (e_) die(#call, e_); } while (0)

static void print_hex(const void *p, size_t n)
{
    const unsigned char *b = p;
    while (n--)
        printf("%02x", *b++);
}

/* read_hex reads a line; -1 at the end of the input. */
static long read_hex(unsigned char *out, size_t max)
{
    static char line[400000];
    size_t n, i;
    if (!fgets(line, sizeof line, stdin))
        return -1;
    n = strcspn(line, "\n") / 2;
    if (n > max)
        exit(2);
    for (i = 0; i < n; i++) {
        unsigned v;
        if (sscanf(line + 2 * i, "%2x", &v) != 1)
            exit(2);
        out[i] = v;
    }
    return n;
}

static unsigned char buf[200000];

static int req(int argc, char **argv)
{
    krb5_auth_context ac = NULL;
    krb5_ccache cc;
    krb5_creds in, *cred;
    krb5_data out = {0}, rep, sum = {0, 14, "data to be sum"};
    krb5_ap_rep_enc_part *part;
    krb5_keyblock *key, *sub;
    krb5_int32 seq;
    krb5_flags opts = 0, flags = KRB5_AUTH_CONTEXT_DO_TIME;
    int mutual = 0, summed = 0, i;
    long n;

    for (i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "mutual"))
            mutual = 1, opts |= AP_OPTS_MUTUAL_REQUIRED;
        else if (!strcmp(argv[i], "subkey"))
            opts |= AP_OPTS_USE_SUBKEY;
        else if (!strcmp(argv[i], "etypes"))
            opts |= AP_OPTS_ETYPE_NEGOTIATION | AP_OPTS_USE_SUBKEY;
        else if (!strcmp(argv[i], "seq"))
            flags |= KRB5_AUTH_CONTEXT_DO_SEQUENCE;
        else if (!strcmp(argv[i], "sum"))
            summed = 1;
    }
    memset(&in, 0, sizeof in);
    CHECK(krb5_cc_default(ctx, &cc));
    CHECK(krb5_cc_get_principal(ctx, cc, &in.client));
    CHECK(krb5_parse_name(ctx, argv[0], &in.server));
    CHECK(krb5_get_credentials(ctx, 0, cc, &in, &cred));
    CHECK(krb5_auth_con_init(ctx, &ac));
    CHECK(krb5_auth_con_setflags(ctx, ac, flags));
    CHECK(krb5_mk_req_extended(ctx, &ac, opts, summed ? &sum : NULL, cred, &out));
    print_hex(out.data, out.length);
    printf("\n");
    CHECK(krb5_auth_con_getkey(ctx, ac, &key));
    CHECK(krb5_auth_con_getsendsubkey(ctx, ac, &sub));
    CHECK(krb5_auth_con_getlocalseqnumber(ctx, ac, &seq));
    print_hex(key->contents, key->length);
    printf(" ");
    if (sub)
        print_hex(sub->contents, sub->length);
    else
        printf("none");
    printf(" %u\n", (unsigned)seq);
    fflush(stdout);
    if (!mutual)
        return 0;
    if ((n = read_hex(buf, sizeof buf)) < 0)
        return 1;
    rep.data = (char *)buf;
    rep.length = n;
    CHECK(krb5_rd_rep(ctx, ac, &rep, &part));
    printf("%u ", (unsigned)part->seq_number);
    if (part->subkey) {
        printf("%d ", part->subkey->enctype);
        print_hex(part->subkey->contents, part->subkey->length);
    } else {
        printf("none");
    }
    printf("\n");
    return 0;
}

static int verify(void)
{
    long n;
    while ((n = read_hex(buf, sizeof buf)) >= 0) {
        krb5_auth_context ac = NULL;
        krb5_ticket *ticket = NULL;
        krb5_flags opts;
        krb5_data in = {0, n, (char *)buf};
        krb5_error_code e;
        char *client, *server;

        CHECK(krb5_auth_con_init(ctx, &ac));
        e = krb5_rd_req(ctx, &ac, &in, NULL, NULL, &opts, &ticket);
        if (e) {
            printf("no %s\n", krb5_get_error_message(ctx, e));
        } else {
            CHECK(krb5_unparse_name(ctx, ticket->enc_part2->client, &client));
            CHECK(krb5_unparse_name(ctx, ticket->server, &server));
            printf("yes %s %s\n", client, server);
            krb5_free_ticket(ctx, ticket);
        }
        krb5_auth_con_free(ctx, ac);
        fflush(stdout);
    }
    return 0;
}

static void die_gss(const char *what, OM_uint32 major, OM_uint32 minor)
{
    fprintf(stderr, "%s: %x: %s\n", what, major, krb5_get_error_message(ctx, minor));
    exit(1);
}

static int tokens(const char *server, int n, const char *path)
{
    FILE *f = fopen(path, "w");
    OM_uint32 major, minor;
    gss_buffer_desc name = {strlen(server), (void *)server}, tok;
    gss_name_t target;

    if (!f)
        die(path, 0);
    if ((major = gss_import_name(&minor, &name, (gss_OID)GSS_KRB5_NT_PRINCIPAL_NAME, &target)))
        die_gss("gss_import_name", major, minor);
    while (n--) {
        gss_ctx_id_t c = GSS_C_NO_CONTEXT;
        major = gss_init_sec_context(&minor, GSS_C_NO_CREDENTIAL, &c, target, (gss_OID)gss_mech_krb5,
                                     GSS_C_MUTUAL_FLAG | GSS_C_INTEG_FLAG, 0, NULL, NULL, NULL, &tok, NULL, NULL);
        if (GSS_ERROR(major))
            die_gss("gss_init_sec_context", major, minor);
        unsigned len = tok.length;
        fwrite(&len, sizeof len, 1, f);
        fwrite(tok.value, 1, tok.length, f);
        gss_release_buffer(&minor, &tok);
        gss_delete_sec_context(&minor, &c, NULL);
    }
    return fclose(f) != 0;
}

static int bench(const char *path)
{
    FILE *f = fopen(path, "r");
    gss_buffer_desc *all = NULL, out;
    size_t n = 0, i;
    unsigned len;
    OM_uint32 major, minor;
    gss_cred_id_t cred;
    struct timespec a, b, wa, wb;

    if (!f)
        die(path, 0);
    while (fread(&len, sizeof len, 1, f) == 1) {
        all = realloc(all, (n + 1) * sizeof *all);
        all[n].length = len;
        all[n].value = malloc(len);
        if (fread(all[n].value, 1, len, f) != len)
            return 1;
        n++;
    }
    if ((major = gss_acquire_cred(&minor, GSS_C_NO_NAME, GSS_C_INDEFINITE, GSS_C_NO_OID_SET, GSS_C_ACCEPT, &cred, NULL, NULL)))
        die_gss("gss_acquire_cred", major, minor);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &a);
    clock_gettime(CLOCK_MONOTONIC, &wa);
    for (i = 0; i < n; i++) {
        gss_ctx_id_t c = GSS_C_NO_CONTEXT;
        major = gss_accept_sec_context(&minor, &c, cred, &all[i], NULL, NULL, NULL, &out, NULL, NULL, NULL);
        if (major != GSS_S_COMPLETE)
            die_gss("gss_accept_sec_context", major, minor);
        gss_release_buffer(&minor, &out);
        gss_delete_sec_context(&minor, &c, NULL);
    }
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &b);
    clock_gettime(CLOCK_MONOTONIC, &wb);
    printf("%zu %.0f %.0f\n", n, ((b.tv_sec - a.tv_sec) * 1e9 + (b.tv_nsec - a.tv_nsec)) / n,
           ((wb.tv_sec - wa.tv_sec) * 1e9 + (wb.tv_nsec - wa.tv_nsec)) / n);
    return 0;
}

int main(int argc, char **argv)
{
    CHECK(krb5_init_context(&ctx));
    if (argc >= 3 && !strcmp(argv[1], "req"))
        return req(argc - 2, argv + 2);
    if (argc == 2 && !strcmp(argv[1], "verify"))
        return verify();
    if (argc == 5 && !strcmp(argv[1], "tokens"))
        return tokens(argv[2], atoi(argv[3]), argv[4]);
    if (argc == 3 && !strcmp(argv[1], "bench"))
        return bench(argv[2]);
    return 2;
}
