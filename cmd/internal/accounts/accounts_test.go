package accounts

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestUsers(t *testing.T) {
	path := write(t, "root:x:0:0:root:/root:/bin/bash\n\n# note\n+::::::\nalice:x:1001:1002:Alice,,,:/home/alice:/bin/sh\n"+
		"short:x:5\nbad:x:many:1:::\nnobody:x:4294967295:1:::\n:x:1:1:::\n")
	users, bad, err := Users(path)
	want := []User{
		{Name: "root", Gecos: "root", Home: "/root", Shell: "/bin/bash"},
		{Name: "alice", UID: 1001, GID: 1002, Gecos: "Alice,,,", Home: "/home/alice", Shell: "/bin/sh"},
	}
	if err != nil || !reflect.DeepEqual(users, want) || len(bad) != 4 {
		t.Errorf("got %+v, %v, %v", users, bad, err)
	}
	if _, _, err := Users(path + "-not"); err == nil {
		t.Error("no file, no error")
	}
}

func TestGroups(t *testing.T) {
	groups, bad, err := Groups(write(t, "wheel:x:10:alice, bob,\nempty:x:11:\nbad:x:-1:\n"))
	want := []Group{{Name: "wheel", GID: 10, Members: []string{"alice", "bob"}}, {Name: "empty", GID: 11}}
	if err != nil || !reflect.DeepEqual(groups, want) || len(bad) != 1 {
		t.Errorf("got %+v, %v, %v", groups, bad, err)
	}
}

func TestLookup(t *testing.T) {
	u, err := LookupID(0)
	if err != nil || u.Name != "root" {
		t.Errorf("uid 0: %+v, %v", u, err)
	}
	if v, err := Lookup(u.Name); err != nil || v != u {
		t.Errorf("root: %+v, %v", v, err)
	}
	if _, err := Lookup("no such account"); !errors.Is(err, ErrUnknown) {
		t.Errorf("got %v, want ErrUnknown", err)
	}
}
