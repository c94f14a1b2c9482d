package broker

import (
	"testing"
	"time"
)

// A host's session counts against no limit when it is resumed; its broker then
// sees whether the user has more than he may have on all hosts together.
func TestOverLimit(t *testing.T) {
	e := benchDirectory(1000).Edit()
	r, err := ParseRule(RuleAttributes{Name: "all", Subject: []string{"*"}, Door: []string{"pam"}, Target: []string{"*"}})
	if err != nil {
		t.Fatal(err)
	}
	e.PutRule(r)
	v := View{Snapshot: e.Commit(), AsOf: testNow, MaxAge: time.Hour}
	b, err := New(Config{Directory: func() View { return v }, Record: func(Request, Decision) error { return nil }, Now: func() time.Time { return testNow }, MaxSessions: 2})
	if err != nil {
		t.Fatal(err)
	}
	b.Keep("pam", func(Ending) {})
	for i, want := range []bool{false, false, true} {
		s := manySession(7)
		s.ID, s.Request.Target.Host = SessionID(string(rune('a'+i))), ""
		if err := b.ResumeSession(s); err != nil {
			t.Fatal(err)
		}
		if got := b.OverLimit(s.ID); got != want {
			t.Errorf("session %d of a user who may have 2: over the limit is %v", i+1, got)
		}
	}
	b.EndSession("c", ReasonTooMany, "test")
	if b.OverLimit("a") || b.OverLimit("c") || b.OverLimit("none") {
		t.Error("what is ending counts")
	}
}
