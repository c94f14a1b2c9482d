package realm

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// apparmorHint says what to do when AppArmor confines a program, which then cannot
// reach the realm's directories; "" where it does not. root is / but in tests.
func apparmorHint(root, exe string, dirs ...string) string {
	on, err := os.ReadFile(filepath.Join(root, "sys/module/apparmor/parameters/enabled"))
	if err != nil || strings.TrimSpace(string(on)) != "Y" {
		return ""
	}
	profile := strings.ReplaceAll(strings.TrimPrefix(exe, "/"), "/", ".")
	if !profileLoaded(root, exe) {
		if _, err := os.Stat(filepath.Join(root, "etc/apparmor.d", profile)); err != nil {
			return ""
		}
		if _, err := os.Lstat(filepath.Join(root, "etc/apparmor.d/disable", profile)); err == nil {
			return ""
		}
	}
	var rules []string
	for _, d := range dirs {
		rules = append(rules, fmt.Sprintf("  %s/ r,\n  %s/** rwk,", d, d))
	}
	return fmt.Sprintf("AppArmor confines %s, and its profile may not allow the realm's directories. Put\n%s\ninto /etc/apparmor.d/local/%s and run: apparmor_parser -r /etc/apparmor.d/%s",
		exe, strings.Join(rules, "\n"), profile, profile)
}

// profileLoaded asks the kernel, which tells only root.
func profileLoaded(root, exe string) bool {
	f, err := os.Open(filepath.Join(root, "sys/kernel/security/apparmor/profiles"))
	if err != nil {
		return false
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if s.Text() == exe+" (enforce)" {
			return true
		}
	}
	return false
}
