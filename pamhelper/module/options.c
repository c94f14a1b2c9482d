#include "sekisho.h"

#include <string.h>
#include <sys/un.h>
#include <syslog.h>

#include <security/pam_ext.h>

/* seconds reads 1 to 60. */
static bool seconds(const char *s, int *ms)
{
	int n = 0;
	if (*s == '0')
		return false;
	for (const char *p = s; *p != 0; p++) {
		if (*p < '0' || *p > '9' || p - s > 1)
			return false;
		n = 10 * n + (*p - '0');
	}
	*ms = n * 1000;
	return n >= 1 && n <= 60;
}

/* options_read reads the arguments of the line in pam.d. What is wrong with them
 * is a fault of the configuration, and not an outage: PAM_SERVICE_ERR, which no
 * stack takes as leave to do without us, and never PAM_AUTHINFO_UNAVAIL. */
int options_read(pam_handle_t *pamh, int argc, const char **argv, struct options *o)
{
	memset(o, 0, sizeof *o);
	o->timeout = 12000;
	o->socket = "/run/sekisho/pam.sock";
	for (int i = 0; i < argc; i++) {
		const char *arg = argv[i], *wrong = NULL;
		if (strcmp(arg, "use_first_pass") == 0)
			o->use_first_pass = true;
		else if (strcmp(arg, "try_first_pass") == 0)
			o->try_first_pass = true;
		else if (strcmp(arg, "debug") == 0)
			o->debug = true;
		else if (strncmp(arg, "socket=", 7) == 0) {
			o->socket = arg + 7;
			if (arg[7] != '/' || strlen(arg + 7) >= sizeof((struct sockaddr_un *)0)->sun_path)
				wrong = "the path must be absolute, and shorter than 108 bytes";
		} else if (strncmp(arg, "timeout=", 8) == 0) {
			if (!seconds(arg + 8, &o->timeout))
				wrong = "give whole seconds from 1 to 60";
		} else
			wrong = "there is no such option";
		if (wrong != NULL) {
			pam_syslog(pamh, LOG_ERR, "option %d of pam_sekisho.so in pam.d, \"%.64s\": %s", i + 1, arg, wrong);
			return PAM_SERVICE_ERR;
		}
	}
	return PAM_SUCCESS;
}
