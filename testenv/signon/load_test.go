package signon

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sekisho/sekisho/wire"
)

// 2,000 sign-ins at the same moment: a right password is never called wrong, a
// wrong one never right, and sekishod lives on in bounded memory.
func TestCrowd(t *testing.T) {
	const crowd, users = 2000, 10
	v, err := calm.join(t.Context(), joining{name: "crowded", prover: "kdc"})
	need(t, err)
	var right, wrong []*person
	for i := range users {
		p, err := calm.admitted(fmt.Sprintf("crowd%d", i))
		need(t, err)
		right = append(right, p)
	}
	q, err := calm.admitted("crowd-wrong")
	need(t, err)
	wrong = append(wrong, q)
	need(t, calm.caughtUp(v))
	type result struct {
		right bool
		a     wire.Answer
		err   error
	}
	results := make([]result, crowd)
	begin := make(chan struct{})
	var all sync.WaitGroup
	for i := range crowd {
		all.Go(func() {
			<-begin
			r := result{right: i%2 == 0}
			if r.right {
				p := right[i/2%users]
				r.a, r.err = v.signIn(p.name, p.password)
			} else {
				r.a, r.err = v.signIn(wrong[0].name, wrong[0].password+"x")
			}
			results[i] = r
		})
	}
	close(begin)
	began := time.Now()
	all.Wait()
	took := time.Since(began)
	counts := map[string]int{}
	for _, r := range results {
		counts[fmt.Sprintf("right password %v: %v %s (%v)", r.right, r.a.Outcome, r.a.Reason, r.err)]++
		switch {
		case r.err != nil:
			t.Errorf("no answer: %v", r.err)
		case r.right && r.a.Outcome == wire.No:
			t.Errorf("a right password was answered no, %s", r.a.Reason)
		case !r.right && r.a.Outcome == wire.Yes:
			t.Error("a wrong password was answered yes")
		}
	}
	t.Logf("%s: %v", took.Round(time.Millisecond), counts)
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", v.daemon.Pid()))
	need(t, err)
	for _, l := range strings.Split(string(b), "\n") {
		var kib int
		if n, _ := fmt.Sscanf(l, "VmHWM: %d kB", &kib); n == 1 {
			t.Logf("sekishod took %d MiB at most", kib>>10)
			if kib > 400<<10 {
				t.Errorf("sekishod took %d MiB", kib>>10)
			}
		}
	}
	soon(t, func() error {
		a, err := v.signIn(right[0].name, right[0].password)
		if err == nil && a.Outcome != wire.Yes {
			err = fmt.Errorf("afterwards: %v %s", a.Outcome, a.Reason)
		}
		return err
	})
}

// 200 people at once through the unmodified sshd.
func TestCrowdAtSSHD(t *testing.T) {
	p := calm.someone(t, "queue", calm.web)
	var all sync.WaitGroup
	errs := make([]error, 200)
	for i := range errs {
		all.Go(func() { errs[i] = errorOf(p.ssh(t.Context(), byPassword.on(calm.web).with(p))) })
	}
	all.Wait()
	in := 0
	for _, err := range errs {
		if err == nil {
			in++
		}
		if err != nil && !strings.Contains(err.Error(), "could not be found out") {
			t.Errorf("a right password: %v", err)
		}
	}
	t.Logf("%d of %d came in", in, len(errs))
	if in < len(errs)/20 {
		t.Errorf("only %d of %d came in", in, len(errs))
	}
}
