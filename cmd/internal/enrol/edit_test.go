package enrol

import (
	"fmt"
	"strings"
	"testing"
)

func TestNSS(t *testing.T) {
	for _, c := range []struct{ before, after string }{
		{"passwd: files\ngroup: files\nshadow: files\n", "passwd: files systemd\ngroup: files systemd\nshadow: files systemd\n"},
		{"passwd: files systemd\ngroup:\tfiles  systemd\nshadow: systemd files\n", "passwd: files systemd\ngroup:\tfiles  systemd\nshadow: systemd files\n"},
		{"passwd:  compat sss # mine\ngroup: files# x\nshadow: files\n", "passwd:  compat systemd sss # mine\ngroup: files systemd# x\nshadow: files systemd\n"},
		{"passwd: sss files\nhosts: files dns\ngroup: files systemd\nshadow: files systemd", "passwd: sss files systemd\nhosts: files dns\ngroup: files systemd\nshadow: files systemd"},
		{"passwd: myfiles files\ngroup: files systemd\nshadow: files systemd\n", "passwd: myfiles files systemd\ngroup: files systemd\nshadow: files systemd\n"},
		{"", "passwd:\tfiles systemd\ngroup:\tfiles systemd\nshadow:\tfiles systemd\n"},
		{"#passwd: files\n", "#passwd: files\npasswd:\tfiles systemd\ngroup:\tfiles systemd\nshadow:\tfiles systemd\n"},
		{"passwd: files [NOTFOUND=return] ldap\n", ""},
		{"passwd: ldap\n", ""},
	} {
		checkEdit(t, nssSystemd, c.before, c.after)
	}
}

// checkEdit also edits twice, which must change nothing more; after "" is an error.
func checkEdit(t *testing.T, f func(string) (string, error), before, after string) {
	t.Helper()
	got, err := f(before)
	if after == "" {
		if err == nil {
			t.Errorf("%q became\n%s", before, got)
		}
		return
	}
	if err != nil || got != after {
		t.Errorf("%q became\n%s\n%v, want\n%s", before, got, err, after)
		return
	}
	if again, err := f(got); err != nil || again != got {
		t.Errorf("%q, edited twice, became\n%s\n%v", before, again, err)
	}
}

func TestSSHDInclude(t *testing.T) {
	edit := func(s string) (string, error) { return sshdInclude(s, sshdSnippet) }
	added := markBegin + "\nInclude " + sshdSnippet + "\n" + markEnd + "\n"
	for before, after := range map[string]string{
		"Include /etc/ssh/sshd_config.d/*.conf\nUsePAM yes\n":                   "=",
		"include  sshd_config.d/*.conf\n":                                       "=",
		"UsePAM yes\nInclude /etc/other /etc/ssh/sshd_config.d/10-*.conf # x\n": "=",
		"UsePAM yes\n": added + "UsePAM yes\n",
		"":             added,
		"# Include /etc/ssh/sshd_config.d/*.conf\n":                  added + "# Include /etc/ssh/sshd_config.d/*.conf\n",
		"Include /etc/ssh/sshd_config.d/99-*.conf\n":                 added + "Include /etc/ssh/sshd_config.d/99-*.conf\n",
		"Match User root\n  Include /etc/ssh/sshd_config.d/*.conf\n": added + "Match User root\n  Include /etc/ssh/sshd_config.d/*.conf\n",
	} {
		if after == "=" {
			after = before
		}
		checkEdit(t, edit, before, after)
	}
}

const debianAuth = `# a comment
auth	[success=1 default=ignore]	pam_unix.so nullok
# here's the fallback if no module succeeds
auth	requisite			pam_deny.so
auth	required			pam_permit.so
auth	optional			pam_cap.so
`

func TestPAMAuth(t *testing.T) {
	edit := func(s string) (string, error) { return pamAuth("auth", s, "/m.so") }
	block := func(n string) string {
		return markBegin + "\nauth\t[success=1 default=ignore]\tpam_localuser.so\nauth\t[success=" + n + " user_unknown=ignore default=die]\t/m.so\n" + markEnd + "\n"
	}
	two := "auth [success=2 default=ignore] pam_unix.so nullok\nauth [success=1 default=ignore] pam_sss.so use_first_pass\nauth requisite pam_deny.so\nauth required pam_permit.so\n"
	for before, after := range map[string]string{
		debianAuth: strings.Replace(debianAuth, "# a comment\n", "# a comment\n"+block("2"), 1),
		two:        block("3") + two,
		"session optional x.so\nauth required pam_faildelay.so\n" + two: "session optional x.so\n" + block("4") + "auth required pam_faildelay.so\n" + two,
		// Made for another number of lines, it is made anew.
		block("9") + two:              block("3") + two,
		"auth required pam_unix.so\n": "",
		"auth sufficient pam_unix.so\nauth required pam_deny.so\n":                                             "",
		"auth [success=5 default=ignore] pam_unix.so\nauth requisite pam_deny.so\n":                            "",
		"auth [success=1 default=ignore] pam_unix.so\nauth required pam_permit.so\nauth required pam_env.so\n": "",
		"@include other\n" + two:         "",
		"auth required \\\n x.so\n":      "",
		"auth include other\n" + two:     "",
		"account required pam_unix.so\n": "",
		"":                               "",
		markBegin + "\n" + two:           "",
	} {
		checkEdit(t, edit, before, after)
	}
}

func TestPAMRest(t *testing.T) {
	account := "account [success=1 new_authtok_reqd=done default=ignore] pam_unix.so\naccount requisite pam_deny.so\n"
	checkEdit(t, func(s string) (string, error) { return pamAccount(s, "/m.so") }, "# x\n"+account,
		"# x\n"+markBegin+"\naccount\t[success=1 default=ignore]\tpam_localuser.so\naccount\t[success=ok new_authtok_reqd=ok user_unknown=ignore default=die]\t/m.so\n"+markEnd+"\n"+account)
	session := func(s string) (string, error) { return pamSession(s, "/m.so") }
	checkEdit(t, session, "session required pam_unix.so\n",
		"session required pam_unix.so\n"+markBegin+"\nsession\t[success=2 default=ignore]\tpam_localuser.so\nsession\toptional\tpam_mkhomedir.so umask=0077\nsession\t[success=ok user_unknown=ignore default=bad]\t/m.so\n"+markEnd+"\n")
	checkEdit(t, session, "session required pam_oddjob_mkhomedir.so\n",
		"session required pam_oddjob_mkhomedir.so\n"+markBegin+"\nsession\t[success=1 default=ignore]\tpam_localuser.so\nsession\t[success=ok user_unknown=ignore default=bad]\t/m.so\n"+markEnd+"\n")
}

// TestUnified: the one text becomes the other by the diff, as patch(1) goes about it.
func TestUnified(t *testing.T) {
	var long []string
	for i := range 60 {
		long = append(long, strings.Repeat("x", i))
	}
	for _, c := range [][2]string{
		{"", "a\nb\n"}, {"a\nb\n", ""}, {"a\n", "a\n"}, {"a\nb\nc\n", "a\nX\nc\n"},
		{strings.Join(long, "\n") + "\n", "first\n" + strings.Join(long[:20], "\n") + "\nnew\n" + strings.Join(long[23:], "\n") + "\nlast\n"},
		{strings.Join(long, "\n") + "\n", strings.Join(long[:10], "\n") + "\n1\n" + strings.Join(long[10:17], "\n") + "\n2\n" + strings.Join(long[17:], "\n") + "\n"},
		{"a\nb\na\nb\na\n", "b\na\nb\nb\n"},
	} {
		diff := unified(lines([]byte(c[0])), lines([]byte(c[1])))
		if (diff == "") != (c[0] == c[1]) {
			t.Errorf("%q to %q: %q", c[0], c[1], diff)
		}
		if got := patched(t, c[0], diff); got != c[1] {
			t.Errorf("%q became %q, want %q by\n%s", c[0], got, c[1], diff)
		}
	}
}

// patched applies a unified diff strictly.
func patched(t *testing.T, text, diff string) string {
	t.Helper()
	old, out, at := lines([]byte(text)), []string(nil), 0
	for line := range strings.Lines(diff) {
		line = strings.TrimSuffix(line, "\n")
		if strings.HasPrefix(line, "@@") {
			var a, na, b, nb int
			if _, err := fmt.Sscanf(line, "@@ -%d,%d +%d,%d @@", &a, &na, &b, &nb); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			if na == 0 {
				a++
			}
			if nb == 0 {
				b++
			}
			for ; at < a-1; at++ {
				out = append(out, old[at])
			}
			if len(out) != b-1 {
				t.Fatalf("%s stands at line %d of the new text", line, len(out)+1)
			}
			continue
		}
		if line[0] != '+' {
			if at >= len(old) || old[at] != line[1:] {
				t.Fatalf("%q does not fit line %d", line, at+1)
			}
			at++
		}
		if line[0] != '-' {
			out = append(out, line[1:])
		}
	}
	if out = append(out, old[at:]...); len(out) == 0 {
		return ""
	}
	return strings.Join(out, "\n") + "\n"
}
