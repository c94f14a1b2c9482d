/*
 * A GSS-API mechanism for MIT's library that begins and gets nowhere: so that an
 * initiator's SPNEGO can prefer something to Kerberos.
 *
 *   cc -shared -fPIC -o othermech.so othermech.c
 */
#include <gssapi/gssapi.h>
#include <gssapi/gssapi_ext.h>
#include <stdlib.h>
#include <string.h>

static int handle;
static gss_OID_desc oid = { 7, "\x2b\x06\x01\x04\x01\x87\x67" }; /* 1.3.6.1.4.1.999 */

OM_uint32
gss_acquire_cred(OM_uint32 *min, gss_name_t name, OM_uint32 life, gss_OID_set mechs, gss_cred_usage_t usage,
		 gss_cred_id_t *cred, gss_OID_set *actual, OM_uint32 *lifetime)
{
	(void)name, (void)life, (void)mechs, (void)usage;
	*min = 0;
	*cred = (gss_cred_id_t)&handle;
	if (actual != NULL)
		*actual = GSS_C_NO_OID_SET;
	if (lifetime != NULL)
		*lifetime = GSS_C_INDEFINITE;
	return GSS_S_COMPLETE;
}

OM_uint32
gss_release_cred(OM_uint32 *min, gss_cred_id_t *cred)
{
	*min = 0;
	*cred = GSS_C_NO_CREDENTIAL;
	return GSS_S_COMPLETE;
}

OM_uint32
gss_inquire_cred(OM_uint32 *min, gss_cred_id_t cred, gss_name_t *name, OM_uint32 *life, gss_cred_usage_t *usage, gss_OID_set *mechs)
{
	(void)cred;
	*min = 0;
	if (name != NULL)
		*name = GSS_C_NO_NAME;
	if (life != NULL)
		*life = GSS_C_INDEFINITE;
	if (usage != NULL)
		*usage = GSS_C_INITIATE;
	if (mechs != NULL)
		*mechs = GSS_C_NO_OID_SET;
	return GSS_S_COMPLETE;
}

OM_uint32
gss_import_name(OM_uint32 *min, gss_buffer_t text, gss_OID type, gss_name_t *name)
{
	(void)text, (void)type;
	*min = 0;
	*name = (gss_name_t)&handle;
	return GSS_S_COMPLETE;
}

OM_uint32
gss_release_name(OM_uint32 *min, gss_name_t *name)
{
	*min = 0;
	*name = GSS_C_NO_NAME;
	return GSS_S_COMPLETE;
}

OM_uint32
gss_indicate_mechs(OM_uint32 *min, gss_OID_set *mechs)
{
	gss_OID_set set = malloc(sizeof(*set));
	gss_OID m = malloc(sizeof(*m));

	if (set == NULL || m == NULL)
		return GSS_S_FAILURE;
	m->length = oid.length;
	m->elements = malloc(oid.length);
	if (m->elements == NULL)
		return GSS_S_FAILURE;
	memcpy(m->elements, oid.elements, oid.length);
	set->count = 1;
	set->elements = m;
	*min = 0;
	*mechs = set;
	return GSS_S_COMPLETE;
}

OM_uint32
gss_inquire_attrs_for_mech(OM_uint32 *min, gss_const_OID mech, gss_OID_set *attrs, gss_OID_set *known)
{
	(void)mech;
	*min = 0;
	for (int i = 0; i < 2; i++) {
		gss_OID_set *p = i ? known : attrs;

		if (p != NULL && (*p = calloc(1, sizeof(**p))) == NULL)
			return GSS_S_FAILURE;
	}
	return GSS_S_COMPLETE;
}

OM_uint32
gss_init_sec_context(OM_uint32 *min, gss_cred_id_t cred, gss_ctx_id_t *ctx, gss_name_t target, gss_OID mech,
		     OM_uint32 flags, OM_uint32 life, gss_channel_bindings_t cb, gss_buffer_t in, gss_OID *actual,
		     gss_buffer_t out, OM_uint32 *got, OM_uint32 *lifetime)
{
	(void)cred, (void)target, (void)mech, (void)flags, (void)life, (void)cb, (void)in;
	*min = 0;
	*ctx = (gss_ctx_id_t)&handle;
	if (actual != NULL)
		*actual = &oid;
	if (got != NULL)
		*got = 0;
	if (lifetime != NULL)
		*lifetime = GSS_C_INDEFINITE;
	out->length = 5;
	out->value = malloc(out->length);
	if (out->value == NULL)
		return GSS_S_FAILURE;
	memcpy(out->value, "other", out->length);
	return GSS_S_CONTINUE_NEEDED;
}

OM_uint32
gss_delete_sec_context(OM_uint32 *min, gss_ctx_id_t *ctx, gss_buffer_t out)
{
	*min = 0;
	*ctx = GSS_C_NO_CONTEXT;
	if (out != NULL)
		out->length = 0;
	return GSS_S_COMPLETE;
}

OM_uint32
gss_display_status(OM_uint32 *min, OM_uint32 code, int type, gss_OID mech, OM_uint32 *more, gss_buffer_t text)
{
	(void)code, (void)type, (void)mech;
	*min = 0;
	*more = 0;
	text->length = 0;
	text->value = NULL;
	return GSS_S_COMPLETE;
}
