package moduletest

import (
	"debug/elf"
	"slices"
	"strings"
	"testing"
)

// What is shipped is hardened, exports the six functions and nothing else, needs
// libpam and libc alone, calls nothing that would change its process, and has no
// variable that could be written.
func TestBuild(t *testing.T) {
	f, err := elf.Open(module(t))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	libs, err := f.ImportedLibraries()
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(libs)
	if strings.Join(libs, " ") != "libc.so.6 libpam.so.0" {
		t.Errorf("it needs %q", libs)
	}
	symbols, err := f.DynamicSymbols()
	if err != nil {
		t.Fatal(err)
	}
	var exported, checked []string
	for _, s := range symbols {
		name, _, _ := strings.Cut(s.Name, "@")
		switch {
		case s.Section != elf.SHN_UNDEF:
			exported = append(exported, name)
		case slices.Contains(strings.Fields(`fork vfork clone execve execv system popen pthread_create signal sigaction sigprocmask alarm
			umask chdir setuid seteuid setresuid setenv putenv exit abort atexit strtok gethostbyname getpwnam localtime
			syslog openlog printf sleep`), name):
			t.Errorf("it calls %s", name)
		case name == "__stack_chk_fail" || strings.HasSuffix(name, "_chk"):
			checked = append(checked, name)
		}
	}
	slices.Sort(exported)
	if want := "pam_sm_acct_mgmt pam_sm_authenticate pam_sm_chauthtok pam_sm_close_session pam_sm_open_session pam_sm_setcred"; strings.Join(exported, " ") != want {
		t.Errorf("it exports %q", exported)
	}
	if !slices.Contains(checked, "__stack_chk_fail") || len(checked) < 2 {
		t.Errorf("it is not built with stack protector and fortified: %q", checked)
	}
	relro, stack := false, false
	for _, p := range f.Progs {
		relro = relro || p.Type == elf.PT_GNU_RELRO
		if p.Type == elf.PT_GNU_STACK {
			stack = p.Flags&elf.PF_X == 0
		}
		if p.Type == elf.PT_LOAD && p.Flags&elf.PF_W != 0 && p.Flags&elf.PF_X != 0 {
			t.Error("memory is writable and executable")
		}
	}
	if !relro || !stack {
		t.Errorf("RELRO %v, no executable stack %v", relro, stack)
	}
	now := false
	for _, tag := range []elf.DynTag{elf.DT_FLAGS, elf.DT_FLAGS_1} {
		v, err := f.DynValue(tag)
		now = now || err == nil && len(v) == 1 && (tag == elf.DT_FLAGS && v[0]&uint64(elf.DF_BIND_NOW) != 0 || tag == elf.DT_FLAGS_1 && v[0]&uint64(elf.DF_1_NOW) != 0)
	}
	if !now {
		t.Error("symbols are bound late")
	}
	all, err := f.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range all {
		if elf.ST_TYPE(s.Info) != elf.STT_OBJECT || int(s.Section) >= len(f.Sections) || s.Section == elf.SHN_UNDEF {
			continue
		}
		switch name := f.Sections[s.Section].Name; name {
		case ".data", ".bss":
			if !strings.HasPrefix(s.Name, "completed.") && s.Name != "__dso_handle" && s.Name != "__TMC_END__" { // the compiler's own
				t.Errorf("%s can be written", s.Name)
			}
		}
	}
}
