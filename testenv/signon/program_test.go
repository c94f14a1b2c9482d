package signon

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// host is a program that PAM did not expect: no descriptors 0 to 2, a umask that
// takes all rights away, SIGPIPE ignored, and four threads that sign in at once,
// two of them with a wrong password. It writes each thread's PAM codes to a file
// that it has opened before.
const host = `
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <security/pam_appl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
static char password[256];
static const char *user;
static int codes[4][6];
static int conv(int n, const struct pam_message **m, struct pam_response **r, void *wrong)
{
	*r = calloc(n, sizeof **r);
	for (int i = 0; i < n; i++)
		if (m[i]->msg_style == PAM_PROMPT_ECHO_OFF)
			asprintf(&(*r)[i].resp, "%s%s", password, wrong ? "x" : "");
	return PAM_SUCCESS;
}
static void *sign(void *arg)
{
	int n = (int)(long)arg, *c = codes[n];
	struct pam_conv conversation = {conv, n % 2 ? arg : NULL};
	pam_handle_t *h;
	for (int i = 0; i < 6; i++) c[i] = -1;
	if (pam_start("alone", user, &conversation, &h)) return NULL;
	c[0] = pam_authenticate(h, 0);
	if (c[0] == 0) {
		c[1] = pam_acct_mgmt(h, 0);
		c[2] = pam_setcred(h, PAM_ESTABLISH_CRED);
		c[3] = pam_open_session(h, 0);
		const char *cc = pam_getenv(h, "KRB5CCNAME");
		struct stat st;
		c[4] = cc && !pam_getenv(h, "SEKISHO_LOGIN") && !stat(cc + 5, &st) && (st.st_mode & 07777) == 0660 ? 0 : 1;
		c[5] = pam_close_session(h, 0);
	}
	pam_end(h, 0);
	return NULL;
}
int main(int n, char **v)
{
	pthread_t t[4];
	FILE *f = fopen(v[2], "r");
	if (n != 4 || !f || !fgets(password, sizeof password, f)) return 1;
	fclose(f);
	user = v[1];
	int out = open(v[3], O_WRONLY | O_CREAT | O_TRUNC, 0600);
	out = fcntl(out, F_DUPFD, 10);
	for (int i = 0; i < 10; i++) close(i);
	umask(0777);
	signal(SIGPIPE, SIG_IGN);
	for (long i = 0; i < 4; i++) if (pthread_create(&t[i], NULL, sign, (void *)i)) return 2;
	for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
	for (int i = 0; i < 4; i++)
		dprintf(out, "%d %d %d %d %d %d\n", codes[i][0], codes[i][1], codes[i][2], codes[i][3], codes[i][4], codes[i][5]);
	for (int i = 0; i < 10; i++) if (fcntl(i, F_GETFD) != -1) dprintf(out, "descriptor %d is open\n", i);
	mode_t mask = umask(0);
	struct sigaction a;
	sigaction(SIGPIPE, NULL, &a);
	dprintf(out, "umask %o, SIGPIPE ignored %d\n", mask, a.sa_handler == SIG_IGN);
	return 0;
}
`

func TestOddProgram(t *testing.T) {
	t.Parallel()
	p := calm.someone(t, "oddprog", calm.web)
	dir := t.TempDir()
	source, program := filepath.Join(dir, "host.c"), filepath.Join(dir, "host")
	need(t, os.WriteFile(source, []byte(host), 0o644))
	need(t, os.WriteFile(filepath.Join(dir, "password"), []byte(p.password), 0o600))
	if out, err := calm.web.Command(t.Context(), "gcc", "-O1", "-Wall", "-o", program, source, "-lpam", "-pthread").CombinedOutput(); err != nil {
		t.Fatalf("gcc: %v: %s", err, out)
	}
	if out, err := calm.web.Command(t.Context(), program, p.name, filepath.Join(dir, "password"), filepath.Join(dir, "out")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := os.ReadFile(filepath.Join(dir, "out"))
	need(t, err)
	// PAM_SUCCESS is 0, PAM_AUTH_ERR 7.
	want := strings.Repeat("0 0 0 0 0 0\n7 -1 -1 -1 -1 -1\n", 2) + "umask 777, SIGPIPE ignored 1\n"
	if string(out) != want {
		t.Errorf("it wrote\n%s, want\n%s", out, want)
	}
	if err := calm.web.noTickets(p.name); err != nil {
		t.Error(err)
	}
}
