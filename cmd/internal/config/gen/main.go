// Command gen writes docs/configuration.md from the comments in package
// config and its defaults.
package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"reflect"
	"strconv"
	"strings"

	"github.com/sekisho/sekisho/cmd/internal/config"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: gen OUTPUT")
		os.Exit(2)
	}
	text, err := render("config.go")
	if err == nil {
		err = os.WriteFile(os.Args[1], text, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

const head = `# The configuration of sekishod

<!-- Made from cmd/internal/config/config.go by "go generate ./cmd/internal/config". Do not edit. -->

One TOML file, ` + "`" + config.DefaultPath + "`" + `; ` + "`sekishod --config FILE`" + ` reads another. Every key may be
left out, and so may the file: then sekishod makes and runs a directory and a KDC of its own.
A key that is not known is refused, with its line. ` + "`sekishod --check`" + ` and ` + "`sekisho check`" + ` read a
file, say what is wrong with it, and start nothing.

sekishod reads the file once, at its start. SIGHUP changes nothing: to apply a change, check it and
restart sekishod. It answers from its snapshot a moment later, so nobody is shut out meanwhile.
`

// render makes the page from the struct's source and the default values.
func render(source string) ([]byte, error) {
	f, err := parser.ParseFile(token.NewFileSet(), source, nil, parser.ParseComments)
	if err != nil {
		return nil, err
	}
	structs := map[string]*ast.StructType{}
	docs := map[string]string{}
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.TYPE {
			continue
		}
		for _, s := range g.Specs {
			ts := s.(*ast.TypeSpec)
			if st, ok := ts.Type.(*ast.StructType); ok {
				structs[ts.Name.Name], docs[ts.Name.Name] = st, g.Doc.Text()
			}
		}
	}
	var out bytes.Buffer
	out.WriteString(head)
	top := reflect.ValueOf(config.Default())
	if err := table(&out, structs["Config"], top); err != nil {
		return nil, err
	}
	for i := range top.NumField() {
		t := top.Type().Field(i)
		st := structs[t.Type.Name()]
		if t.Type.Kind() != reflect.Struct || st == nil {
			continue
		}
		// The comment says "Realm is the embedded …": the page's heading has the name.
		doc := strings.TrimPrefix(docs[t.Type.Name()], t.Type.Name()+" is ")
		doc = strings.ToUpper(doc[:1]) + doc[1:]
		fmt.Fprintf(&out, "\n## [%s]\n\n%s", t.Tag.Get("toml"), doc)
		if err := table(&out, st, top.Field(i)); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}

// table prints one struct's keys.
func table(out *bytes.Buffer, st *ast.StructType, v reflect.Value) error {
	out.WriteString("\n| key | default | meaning |\n|---|---|---|\n")
	for _, f := range st.Fields.List {
		name := f.Names[0].Name
		sf, _ := v.Type().FieldByName(name)
		if sf.Type.Kind() == reflect.Struct {
			continue
		}
		key := sf.Tag.Get("toml")
		doc := strings.Join(strings.Fields(f.Doc.Text()), " ")
		if key == "" || doc == "" {
			return fmt.Errorf("%s.%s needs a toml tag and a comment", v.Type().Name(), name)
		}
		for _, verb := range []string{" is ", " are ", " says ", " tells "} {
			if rest, ok := strings.CutPrefix(doc, name+verb); ok {
				if verb == " says " || verb == " tells " {
					rest = strings.TrimSpace(verb) + " " + rest
				}
				doc = rest
				break
			}
		}
		doc = strings.TrimPrefix(doc, name+" ")
		doc = strings.ToUpper(doc[:1]) + doc[1:]
		fmt.Fprintf(out, "| `%s` | %s | %s |\n", key, value(v.FieldByName(name)), strings.ReplaceAll(doc, "|", "\\|"))
	}
	return nil
}

// value prints a default as it would stand in the file.
func value(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case string:
		if x == "" {
			return ""
		}
		return "`" + strconv.Quote(x) + "`"
	case []string:
		q := make([]string, len(x))
		for i, s := range x {
			q[i] = strconv.Quote(s)
		}
		return "`[" + strings.Join(q, ", ") + "]`"
	case fmt.Stringer:
		return "`" + strconv.Quote(x.String()) + "`"
	default:
		return "`" + fmt.Sprint(x) + "`"
	}
}
