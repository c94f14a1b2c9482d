package wire

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

func TestRequestBytes(t *testing.T) {
	for _, c := range []struct {
		line string
		want Request
	}{
		{"1 status\n", Request{Verb: "status"}},
		{"1 keys user=alice fp=SHA256:a+/= type=sk-ssh-ed25519@openssh.com\n", Request{Verb: "keys", Fields: []Field{
			{"user", "alice"}, {"fp", "SHA256:a+/="}, {"type", "sk-ssh-ed25519@openssh.com"}}}},
		{"1 pam-auth password= user=%25%20%00%0A%C3%A9x\n", Request{Verb: "pam-auth", Fields: []Field{
			{"password", ""}, {"user", "% \x00\néx"}}}},
	} {
		got, err := ParseRequest([]byte(c.line))
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: %+v, %v", c.line, got, err)
		}
		b, err := AppendRequest([]byte("x"), c.want)
		if err != nil || string(b) != "x"+c.line {
			t.Errorf("printed %q, %v; want %q", b, err, c.line)
		}
	}
}

// badRequests are lines that must be refused.
var badRequests = []string{
	"", "\n", "1\n", "1 \n", " 1 keys\n", "keys\n", "1 keys", "1 keys\r\n", "1 keys \n", "1  keys\n",
	"1 Keys\n", "1 ke_ys\n", "1 -keys\n", "1 9keys\n", "1 keys user\n", "1 keys =x\n", "1 keys  user=a\n",
	"1 keys user=a user=a\n", "1 keys user=a user=b\n", "1 keys User=a\n", "1 keys user=a b\n",
	"1 keys user=%\n", "1 keys user=%2\n", "1 keys user=%2g\n", "1 keys user=%0a\n", "1 keys user=%41\n",
	"1 keys user=a\x00\n", "1 keys user=a\tb\n", "1 keys user=\x7f\n", "1 keys user=\xc3\xa9\n", "1 keys\n1 keys\n",
	"01 keys\n", "-1 keys\n", "0 keys\n", "100000 keys\n", "1.0 keys\n",
	"1 " + strings.Repeat("k", MaxName+1) + "\n", "1 keys " + strings.Repeat("u", MaxName+1) + "=\n",
	"1 keys user=" + strings.Repeat("a", MaxLine) + "\n",
	"1 keys" + manyFields(MaxFields+1) + "\n",
}

func manyFields(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(" f" + string(rune('a'+i/26)) + string(rune('a'+i%26)) + "=")
	}
	return b.String()
}

func TestRequestRefused(t *testing.T) {
	for _, line := range badRequests {
		r, err := ParseRequest([]byte(line))
		if err == nil || !reflect.DeepEqual(r, Request{}) {
			t.Errorf("%.60q: %+v, %v", line, r, err)
		}
	}
	for _, r := range []Request{
		{}, {Verb: "a b"}, {Verb: "keys\n"}, {Verb: "keys", Fields: []Field{{"", "x"}}},
		{Verb: "keys", Fields: []Field{{"a=b", "x"}}}, {Verb: "keys", Fields: []Field{{"a", "x"}, {"a", "x"}}},
		{Verb: "keys", Fields: make([]Field, MaxFields+1)},
		{Verb: "keys", Fields: []Field{{"a", strings.Repeat(" ", MaxLine/3)}}},
	} {
		if b, err := AppendRequest([]byte("x"), r); err == nil || b != nil {
			t.Errorf("%.60v: printed %.60q", r, b)
		}
	}
}

func TestRequestAtTheLimits(t *testing.T) {
	head := "1 keys user="
	line := head + strings.Repeat("a", MaxLine-len(head)-1) + "\n"
	r, err := ParseRequest([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := AppendRequest(nil, r); err != nil || string(b) != line {
		t.Fatalf("not printed: %v", err)
	}
	if _, err := ReadRequest(strings.NewReader(line), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := ParseRequest([]byte("1 keys" + manyFields(MaxFields) + "\n")); err != nil {
		t.Fatal(err)
	}
	// A password of 4096 bytes, none of which stands for itself.
	if _, err := AppendRequest(nil, Request{Verb: "auth", Fields: []Field{{"password", strings.Repeat("\x00", 4096)}}}); err != nil {
		t.Fatal(err)
	}
}

func TestErrorsHoldNoValue(t *testing.T) {
	_, err := ParseRequest([]byte("1 auth password=hunter%zz2\n"))
	if err == nil || strings.Contains(err.Error(), "hunter") {
		t.Fatal(err)
	}
}

func TestVersionIsNamed(t *testing.T) {
	_, rerr := ParseRequest([]byte("2 keys whatever=comes next\n"))
	_, aerr := ParseAnswer([]byte("31 maybe\n"))
	for peer, err := range map[string]error{"2": rerr, "31": aerr} {
		var v *VersionError
		if !errors.As(err, &v) || v.Peer != peer || !strings.Contains(err.Error(), "version "+peer+" ") || !strings.Contains(err.Error(), "version 1:") {
			t.Errorf("%v", err)
		}
	}
}

func TestFields(t *testing.T) {
	r := Request{Verb: "keys", Fields: []Field{{"user", "alice"}, {"fp", ""}}}
	if r.Get("user") != "alice" || r.Get("fp") != "" || r.Get("no") != "" || !r.Has("fp") || r.Has("no") {
		t.Fatal("wrong field")
	}
	if err := r.Only("fp", "user"); err != nil {
		t.Fatal(err)
	}
	if err := r.Only("user"); err == nil || !strings.Contains(err.Error(), "no field fp") {
		t.Fatal(err)
	}
}

func TestZeroAnswerOpensNothing(t *testing.T) {
	b, err := AppendAnswer(nil, Answer{})
	if err != nil || string(b) != "1 unknown 0\n" {
		t.Fatalf("%q %v", b, err)
	}
	if Outcome(7).String() != "unknown" {
		t.Fatal("a made-up outcome has a word of its own")
	}
}

func TestAnswerBytes(t *testing.T) {
	for _, c := range []struct {
		text string
		want Answer
	}{
		{"1 unknown 0\n", Answer{}},
		{"1 no 0 reason=no-rule text=no%20rule%20lets%20alice%20in\n", Answer{Outcome: No, Reason: "no-rule", Text: "no rule lets alice in"}},
		{"1 unknown 0 text=a%25\n", Answer{Text: "a%"}},
		{"1 yes 3\nssh-ed25519 AAAA a%20b\n\nx y \n", Answer{Outcome: Yes, Body: []string{"ssh-ed25519 AAAA a%20b", "", "x y "}}},
	} {
		got, err := ParseAnswer([]byte(c.text))
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%q: %+v, %v", c.text, got, err)
		}
		b, err := AppendAnswer([]byte("x"), c.want)
		if err != nil || string(b) != "x"+c.text {
			t.Errorf("printed %q, %v; want %q", b, err, c.text)
		}
		// Every shorter beginning is not an answer, whole or read in bytes.
		for n := range len(c.text) {
			if a, err := ParseAnswer([]byte(c.text[:n])); !errors.Is(err, io.ErrUnexpectedEOF) || !reflect.DeepEqual(a, Answer{}) {
				t.Errorf("%q: %+v, %v", c.text[:n], a, err)
			}
			want := io.ErrUnexpectedEOF
			if n == 0 {
				want = io.EOF
			}
			if a, err := ReadAnswer(iotest.OneByteReader(strings.NewReader(c.text[:n]))); err != want || !reflect.DeepEqual(a, Answer{}) {
				t.Errorf("%q: %+v, %v", c.text[:n], a, err)
			}
		}
		for _, r := range []io.Reader{strings.NewReader(c.text), iotest.OneByteReader(strings.NewReader(c.text)),
			iotest.DataErrReader(strings.NewReader(c.text)), iotest.HalfReader(strings.NewReader(c.text))} {
			if got, err := ReadAnswer(r); err != nil || !reflect.DeepEqual(got, c.want) {
				t.Errorf("read %q: %+v, %v", c.text, got, err)
			}
		}
	}
}

// badAnswers are whole messages that must be refused.
var badAnswers = []string{
	"\n", "1\n", "1 \n", "1 yes\n", "1 yes \n", "1 YES 0\n", "1 maybe 0\n", "1 yes -1\n", "1 yes 01\n", "1 yes 1x\n",
	"1  yes 0\n", "1 yes  0\n", "1 yes 0 \n", "1 yes 0\r\n", "1 yes 0\n\n", "1 yes 0\nx\n", "1 yes 1\na\nb",
	"1 yes 1\na\x00\n", "1 yes 1\na\tb\n", "1 yes 1\na\x1b[2J\n", "1 yes 1\n\x7f\n", "1 yes 1\na\r\n",
	"1 yes 99999999999999999999\n", "1 yes 16385\n", "1 no 0 reason=\n", "1 no 0 reason=A\n", "1 no 0 reason=a b\n",
	"1 no 0 reason=a reason=a\n", "1 no 0 text=\n", "1 no 0 text=a text=b\n", "1 no 0 text=a reason=b\n",
	"1 no 0 text=a%0Ab\n", "1 no 0 text=a%0ab\n", "1 no 0 text=%61\n", "1 no 0 text\n", "1 no 0 other=a\n",
	"1 no 0 reason=" + strings.Repeat("a", MaxReason+1) + "\n",
	"1 no 0 text=" + strings.Repeat("a", MaxText+1) + "\n",
	"1 yes 1\n" + strings.Repeat("a", MaxBodyLine+1) + "\n",
	"1 no " + strings.Repeat("0", MaxLine) + "\n",
	"1 yes 17\n" + strings.Repeat(strings.Repeat("a", MaxBodyLine)+"\n", 17),
	"HTTP/1.1 400 Bad Request\r\n",
}

func TestAnswerRefused(t *testing.T) {
	for _, text := range badAnswers {
		a, err := ParseAnswer([]byte(text))
		if err == nil || errors.Is(err, io.ErrUnexpectedEOF) || !reflect.DeepEqual(a, Answer{}) {
			t.Errorf("%.60q: %.60v, %v", text, a, err)
		}
		a, err = ReadAnswer(strings.NewReader(text))
		if err == nil || err == io.ErrUnexpectedEOF || !reflect.DeepEqual(a, Answer{}) {
			t.Errorf("reading %.60q: %.60v, %v", text, a, err)
		}
	}
	for _, a := range []Answer{
		{Outcome: Yes + 1}, {Reason: "two words"}, {Reason: "x\n"}, {Text: "a\nb"}, {Text: strings.Repeat("a", MaxText+1)},
		{Body: []string{"a\nb"}}, {Body: []string{"a\x00"}}, {Body: []string{strings.Repeat("a", MaxBodyLine+1)}},
		{Body: make([]string, MaxBodyLines+1)}, {Body: big(MaxAnswer)},
	} {
		if b, err := AppendAnswer([]byte("x"), a); err == nil || b != nil {
			t.Errorf("%.60v: printed %.60q", a, b)
		}
	}
}

// big returns lines which with their newlines are n bytes.
func big(n int) []string {
	var body []string
	for n > 0 {
		size := min(n, MaxBodyLine)
		body = append(body, strings.Repeat("a", size-1))
		n -= size
	}
	return body
}

func TestAnswerAtTheLimits(t *testing.T) {
	for _, a := range []Answer{
		{Outcome: Yes, Body: big(MaxAnswer - len("1 yes 16\n"))},
		{Outcome: Yes, Body: []string{strings.Repeat("a", MaxBodyLine)}},
		{Outcome: Yes, Body: make([]string, MaxBodyLines)},
		{Outcome: No, Reason: strings.Repeat("r", MaxReason), Text: strings.Repeat(" ", MaxText)},
	} {
		b, err := AppendAnswer(nil, a)
		if err != nil {
			t.Fatal(err)
		}
		got, err := ReadAnswer(iotest.HalfReader(bytes.NewReader(b)))
		if err != nil || !reflect.DeepEqual(got, a) {
			t.Fatalf("%d bytes: %v", len(b), err)
		}
	}
}

// endless gives the same bytes for ever and counts them.
type endless struct {
	text string
	n    int
}

func (e *endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = e.text[(e.n+i)%len(e.text)]
	}
	e.n += len(p)
	return len(p), nil
}

type silent struct{}

func (silent) Read([]byte) (int, error) { return 0, nil }

func TestReadsAreBounded(t *testing.T) {
	for _, text := range []string{"a", "1 ", "x\n", "\x00"} {
		e := &endless{text: text}
		if _, err := ReadAnswer(e); err == nil || e.n > 2*MaxLine {
			t.Errorf("%q: read %d bytes, %v", text, e.n, err)
		}
		e = &endless{text: text}
		if _, err := ReadRequest(e, nil); err == nil || e.n > MaxLine {
			t.Errorf("%q: read %d bytes, %v", text, e.n, err)
		}
	}
	body := &endless{text: "a\n"}
	if _, err := ReadAnswer(io.MultiReader(strings.NewReader("1 yes 16384\n"), io.LimitReader(body, 100), &endless{text: "b"})); err == nil {
		t.Error("a body line without end was read")
	}
	if _, err := ReadAnswer(silent{}); err != io.ErrNoProgress {
		t.Error(err)
	}
	if _, err := ReadRequest(silent{}, nil); err != io.ErrNoProgress {
		t.Error(err)
	}
}

func TestReadRequest(t *testing.T) {
	buf := make([]byte, 0, 8)
	r := io.MultiReader(strings.NewReader("1 keys us"), strings.NewReader("er=alice\n"), strings.NewReader("1 sta"))
	got, err := ReadRequest(r, buf)
	if err != nil || got.Get("user") != "alice" {
		t.Fatal(got, err)
	}
	if _, err := ReadRequest(r, buf); err != io.ErrUnexpectedEOF {
		t.Fatal(err)
	}
	if _, err := ReadRequest(r, buf); err != io.EOF {
		t.Fatal(err)
	}
	if _, err := ReadRequest(strings.NewReader("1 status\n1 accept\n"), nil); err == nil {
		t.Fatal("a second request was swallowed")
	}
}

type pipe struct {
	io.Reader
	io.Writer
}

func TestAsk(t *testing.T) {
	var sent bytes.Buffer
	a, err := Ask(pipe{strings.NewReader("1 no 0 reason=no-rule\n"), &sent}, Request{Verb: VerbStatus})
	if err != nil || a.Outcome != No || sent.String() != "1 status\n" {
		t.Fatal(a, err, sent.String())
	}
}

// closed takes no more requests.
type closed struct{}

func (closed) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestAskTurnedAway(t *testing.T) {
	r := Request{Verb: VerbStatus}
	a, err := Ask(pipe{strings.NewReader("1 unknown 0 reason=busy\n"), closed{}}, r)
	if err != nil || a.Reason != ReasonBusy {
		t.Fatal(a, err)
	}
	for _, early := range []string{"", "1 yes 1\nx\n", "1 no 0\n", "1 unknown"} {
		if a, err := Ask(pipe{strings.NewReader(early), closed{}}, r); err != io.ErrClosedPipe || !reflect.DeepEqual(a, Answer{}) {
			t.Fatal(early, a, err)
		}
	}
}

func FuzzRequest(f *testing.F) {
	f.Add([]byte("1 keys user=alice fp=SHA256:x key=AAA=\n"))
	for _, s := range badRequests {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		r, err := ParseRequest(line)
		r2, err2 := ReadRequest(bytes.NewReader(line), nil)
		if err != nil {
			if !reflect.DeepEqual(r, Request{}) || !reflect.DeepEqual(r2, Request{}) || err2 == nil {
				t.Fatalf("%+v or %+v beside %v", r, r2, err)
			}
			return
		}
		if err2 != nil || !reflect.DeepEqual(r, r2) || len(r.Fields) > MaxFields {
			t.Fatalf("read %+v, %v; parsed %+v", r2, err2, r)
		}
		b, err := AppendRequest(nil, r)
		if err != nil || !bytes.Equal(b, line) {
			t.Fatalf("%q printed as %q, %v", line, b, err)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add([]byte("1 yes 2 reason=a-b text=c%20d\nx\ny z\n"))
	for _, s := range badAnswers {
		if len(s) < MaxLine {
			f.Add([]byte(s))
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		a, err := ParseAnswer(text)
		a2, err2 := ReadAnswer(iotest.OneByteReader(bytes.NewReader(text)))
		if err != nil {
			// Bytes after a whole answer are not seen by one-byte reads.
			if !reflect.DeepEqual(a, Answer{}) || (err2 == nil && !errors.Is(err, errTrailing)) {
				t.Fatalf("%+v beside %v; read %+v, %v", a, err, a2, err2)
			}
			return
		}
		if err2 != nil || !reflect.DeepEqual(a, a2) || len(text) > MaxAnswer || len(a.Body) > MaxBodyLines {
			t.Fatalf("read %+v, %v; parsed %+v", a2, err2, a)
		}
		b, err := AppendAnswer(nil, a)
		if err != nil || !bytes.Equal(b, text) {
			t.Fatalf("%q printed as %q, %v", text, b, err)
		}
	})
}

// FuzzPrinters: what the printers let through, the parsers read back.
func FuzzPrinters(f *testing.F) {
	f.Add("keys", "user", "al ice", uint8(2), "reason", "a text", "a\nb")
	f.Fuzz(func(t *testing.T, verb, name, value string, outcome uint8, reason, text, body string) {
		r := Request{Verb: verb, Fields: []Field{{name, value}}}
		if b, err := AppendRequest(nil, r); err == nil {
			if got, err := ParseRequest(b); err != nil || !reflect.DeepEqual(got, r) {
				t.Fatalf("%q: %+v, %v", b, got, err)
			}
		}
		a := Answer{Outcome: Outcome(outcome), Reason: reason, Text: text, Body: strings.Split(body, "\n")}
		if b, err := AppendAnswer(nil, a); err == nil {
			if got, err := ParseAnswer(b); err != nil || !reflect.DeepEqual(got, a) {
				t.Fatalf("%q: %+v, %v", b, got, err)
			}
		}
	})
}

func BenchmarkParseRequest(b *testing.B) {
	line := []byte("1 keys user=alice fp=SHA256:uNiVztksCsDhcc0u9e8BgrJXVGDbv4o1eP5vQyIdGJ0 type=ssh-ed25519 key=AAAAC3NzaC1lZDI1NTE5AAAAIHUOtF4yqFJBVWyfV2yKZx8kGZ1bJ1oV3y5e0p7Qw9xA\n")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseRequest(line); err != nil {
			b.Fatal(err)
		}
	}
}
