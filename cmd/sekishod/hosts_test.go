package main

import (
	"fmt"
	"testing"
	"time"

	"github.com/sekisho/sekisho/broker"
	"github.com/sekisho/sekisho/cmd/internal/report"
	"github.com/sekisho/sekisho/feed"
)

// TestHostsAreSummedUp: a small site sees all its hosts, a large one those that are not
// well, and both the worst first.
func TestHostsAreSummedUp(t *testing.T) {
	since := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	sick := []feed.HostStatus{
		{Host: "absent"},
		{Host: "gone", Since: since, Judged: 40, Sessions: 1},
		{Host: "late", Connected: true, From: "203.0.113.9", Since: since, Judged: 41, Behind: 12 * time.Second, Sessions: 2},
		{Host: "busy", Connected: true, Since: since, Judged: 42, Behind: time.Second},
	}
	few := sumHosts(hostReports(sick))
	var got []string
	for _, h := range few.Hosts {
		got = append(got, h.Host+" "+h.State)
	}
	if want := "[late behind gone gone absent absent busy following]"; fmt.Sprint(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if few.Following != 2 || few.Behind != 1 || few.Gone != 1 || few.Absent != 1 || few.Sessions != 3 {
		t.Errorf("%+v", few)
	}
	if h := few.Hosts[0]; h.Since == nil || !h.Since.Equal(since) || h.From != "203.0.113.9" || h.Generation != 41 || h.BehindSeconds != 12 || h.Sessions != 2 {
		t.Errorf("%+v", h)
	}
	if h := few.Hosts[2]; h.Since != nil {
		t.Errorf("%+v", h)
	}

	all := sick
	for i := range 1000 {
		all = append(all, feed.HostStatus{Host: broker.HostName(fmt.Sprint("well", i)), Connected: true, Since: since})
	}
	if many := sumHosts(hostReports(all)); many.Following != 1002 || len(many.Hosts) != 3 || many.Hosts[0].Host != "late" {
		t.Errorf("%+v", many)
	}
	for i := range 1000 {
		all = append(all, feed.HostStatus{Host: broker.HostName(fmt.Sprint("never", i))})
	}
	if many := sumHosts(hostReports(all)); many.Absent != 1001 || len(many.Hosts) != report.MostHosts || many.Hosts[0].Host != "late" || many.Hosts[1].Host != "gone" {
		t.Errorf("%+v", many)
	}
}
