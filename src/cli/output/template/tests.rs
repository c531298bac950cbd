use proptest::prelude::*;
use serde_json::json;

use super::*;

fn data() -> Value {
    json!({
        "ID": "abc", "Name": "default", "Size": 3, "Ratio": 1.5, "On": true, "Off": false,
        "Names": ["a", "b"], "None": null, "Empty": [],
        "State": {"Status": "running", "ExitCode": 0},
        "Config": {"Labels": {"x.y": "1", "tier": "db"}, "Env": ["A=1"]},
    })
}

fn strict() -> View<'static> {
    View { strict: true, ..View::default() }
}

#[track_caller]
fn prints(source: &str, expected: &str) {
    let rendered = Template::parse(source).and_then(|t| t.render(&data(), strict()));
    assert_eq!(rendered.as_deref(), Ok(expected), "{source}");
}

#[track_caller]
fn refuses(source: &str, expected: &str) {
    let rendered = Template::parse(source).and_then(|t| t.render(&data(), strict()));
    let said = rendered.expect_err(source).to_string();
    assert_eq!(said.strip_prefix("template parsing error: template: "), Some(expected), "{source}");
}

#[test]
fn fields_and_text() {
    prints("", "");
    prints("raw }} text", "raw }} text");
    prints("{{.ID}} {{.State.Status}} {{ .State.ExitCode }}", "abc running 0");
    prints("{{$.ID}}{{(.State).Status}}{{$x := .State}}{{$x.Status}}", "abcrunningrunning");
    prints("{{.Names}} {{.Config.Labels}} {{.On}} {{.Ratio}}", "[a b] map[tier:db x.y:1] true 1.5");
    prints("{{json .Names}} {{json \"<a&b>\"}}", "[\"a\",\"b\"] \"<a&b>\"");
    prints("{{json .State}}", r#"{"ExitCode":0,"Status":"running"}"#);
}

#[test]
fn missing_fields_are_errors_of_structs_alone() {
    prints("{{.Config.Labels.nope}} {{.None}} {{.None.label}}", "<no value> <no value> <no value>");
    prints("{{index .Config.Labels \"x.y\"}}{{with index .Config.Labels \"z\"}}z{{end}}", "1");
    refuses("{{.Foo}}", ":1:2: executing \"\" at <.Foo>: can't evaluate field Foo");
    refuses("a\n{{.Foo}}", ":2:2: executing \"\" at <.Foo>: can't evaluate field Foo");
    refuses("{{.State.X}}", ":1:2: executing \"\" at <.State.X>: can't evaluate field X");
    refuses(
        "{{.Name.X}}",
        ":1:2: executing \"\" at <.Name.X>: can't evaluate field X in type string",
    );
    refuses("{{.None.X}}", ":1:2: executing \"\" at <.None.X>: nil pointer evaluating field X");
    let err = Template::parse("{{.State.X}}").and_then(|t| t.render(&data(), strict()));
    let err = err.expect_err("missing");
    assert_eq!(err.hint_text(), Some("fields here are ExitCode, Status"));
    let lax = Template::parse("{{.Foo.Bar}}").and_then(|t| t.render(&data(), View::default()));
    assert_eq!(lax.as_deref(), Ok("<no value>"));
}

#[test]
fn blocks() {
    prints("{{range .Names}}{{.}},{{end}}", "a,b,");
    prints("{{range $i, $e := .Names}}{{$i}}={{$e}} {{else}}none{{end}}", "0=a 1=b ");
    prints("{{range $e := .Empty}}{{$e}}{{else}}none{{end}}", "none");
    prints("{{range $k, $v := .Config.Labels}}{{$k}}:{{$v}};{{end}}", "tier:db;x.y:1;");
    prints("{{range 3}}{{.}}{{end}}", "012");
    prints("{{range .Names}}{{if eq . \"b\"}}{{break}}{{end}}{{.}}{{end}}", "a");
    prints("{{range .Names}}{{if eq . \"a\"}}{{continue}}{{end}}{{.}}{{end}}", "b");
    prints("{{if .Off}}a{{else if .On}}b{{else}}c{{end}}", "b");
    prints("{{if not .Empty}}e{{end}}{{if .State}}s{{end}}", "es");
    prints(
        "{{with .State}}{{.Status}}{{$.ID}}{{end}}{{with .None}}x{{else}}y{{end}}",
        "runningabcy",
    );
    prints("{{with \"\"}}a{{else with \"x\"}}{{.}}{{end}}", "x");
    prints("{{$x := 1}}{{if true}}{{$x = 2}}{{end}}{{$x}}", "2");
    prints("{{$x := 1}}{{if true}}{{$x := 2}}{{end}}{{$x}}", "1");
    refuses(
        "{{range .Name}}{{end}}",
        ":1:8: executing \"\" at <.Name>: range can't iterate over default",
    );
}

#[test]
fn trimming_and_comments() {
    prints("a {{- .ID -}} b", "aabcb");
    prints("a {{- /* no */ -}} b{{/* c */}}", "ab");
    prints("{{-1}} {{- 2}}", "-12");
    refuses("{{/*x*/ }}", ":1: comment ends before closing delimiter");
    refuses("{{/*", ":1: unclosed comment");
}

#[test]
fn literals() {
    prints(
        "{{1_000}} {{0b11}} {{0o17}} {{017}} {{0xfF}} {{'a'}} {{'\\n'}}",
        "1000 3 15 15 255 97 10",
    );
    prints(
        "{{1.5}} {{1e3}} {{1e21}} {{100000000.0}} {{-.5}} {{+1}} {{0.00001}}",
        "1.5 1000 1e+21 1e+08 -0.5 1 1e-05",
    );
    prints("{{123456.0}} {{1234567.0}}", "123456 1.234567e+06");
    prints("{{\"\\u00e9\\t\\x41\\\"\"}}{{`r\\n`}}", "é\tA\"r\\n");
    refuses("{{\"a", ":1: unterminated quoted string");
    refuses("{{`a", ":1: unterminated raw quoted string");
    refuses("{{'ab'}}", ":1: unterminated character constant");
    refuses("{{1a}}", ":1: bad number syntax: \"1a\"");
    refuses("{{nil}}", ":1:2: executing \"\" at <nil>: nil is not a command");
}

#[test]
fn functions_are_gos_and_dockers() {
    prints("{{upper .Name}} {{.Name | title | lower}}", "DEFAULT default");
    prints("{{title \"hello wORLD-foo bar_baz\"}}", "Hello WORLD-Foo Bar_baz");
    prints(
        "{{split .Name \"a\"}} {{join .Names \"-\"}} {{split \"ab\" \"\"}}",
        "[def ult] a-b [a b]",
    );
    prints(
        "{{pad .Name 2 3}}|{{truncate .Name 3}}|{{pad \"\" 1 1}}|{{truncate .Name 99}}",
        "  default   |def||default",
    );
    prints(
        "{{println .Name 1 2}}{{print .Name 1 2 \"x\" 3 true}}",
        "default 1 2\ndefault1 2x3 true",
    );
    prints("{{len .Name}} {{len .Names}} {{.State | len}}", "7 2 2");
    prints("{{index .Names 1}} {{index .Name 0}} {{index .Config \"Env\" 0}}", "b 100 A=1");
    prints("{{slice .Name 1 3}} {{slice .Names 1}} {{slice .Name}}", "ef [b] default");
    prints(
        "{{eq 1 2 3 1}} {{ne .Name \"x\"}} {{lt 1 2}} {{ge \"b\" \"a\"}} {{le 1.5 1.5}}",
        "true true true true true",
    );
    prints("{{eq .State.ExitCode 0}} {{eq .None nil}} {{gt 1 2}}", "true true false");
    prints("{{and .Name 0}} {{or 0 \"x\"}} {{and 1 2}} {{or \"\" 0}} {{not 1}}", "0 x 2 0 false");
    prints("{{or .ID .Foo}}", "abc"); // .Foo is never looked at
}

#[test]
fn printf_has_gos_verbs() {
    prints(
        "{{printf \"%5s|%-5s|%05d|%x|%q|%v|%t\" .ID .ID 3 255 .ID 1.5 true}}",
        "  abc|abc  |00003|ff|\"abc\"|1.5|true",
    );
    prints(
        "{{printf \"%q %x %X %c %U %o %b\" \"a\\x1b\" \"hi\" \"hi\" 65 65 8 5}}",
        "\"a\\x1b\" 6869 6869 A U+0041 10 101",
    );
    prints(
        "{{printf \"%+d %x %5t|%05.1f|%.2s|%08d|% d\" 3 \"é\" true 2.25 \"abc\" -5 3}}",
        "+3 c3a9  true|002.2|ab|-0000005| 3",
    );
    prints("{{printf \"%6.2f %e %g\" 1.5 1.5 1e21}}", "  1.50 1.500000e+00 1e+21");
    prints(
        "{{printf \"%v %s %d\" .Names .Names .Names}}",
        "[a b] [a b] [%!d(string=a) %!d(string=b)]",
    );
    prints("{{.ID | printf \"%s-%s\" \"a\"}}", "a-abc");
    prints("{{printf \"%s %d %s\" 3 \"x\" true}}", "%!s(int=3) %!d(string=x) %!s(bool=true)");
    prints(
        "{{printf \"%s\"}} {{printf \"%d\" 1 2}} {{printf \"%z %\" 1}}",
        "%!s(MISSING) 1%!(EXTRA int=2) %!z(int=1) %!(NOVERB)",
    );
    prints("{{printf \"%v %s 100%%\" nil nil}}", "<nil> %!s(<nil>) 100%");
    prints("{{printf \"%99999999999s\" \"a\"}}", "%!(BADWIDTH)%!(EXTRA string=a)");
}

#[test]
fn calls_that_cannot_be_are_explained() {
    for (source, said) in [
        ("{{upper 3}}", ":1:8: executing \"\" at <3>: expected string; found 3"),
        ("{{lt 1 2 3}}", ":1:2: executing \"\" at <lt>: wrong number of args for lt: want 2 got 3"),
        (
            "{{and}}",
            ":1:2: executing \"\" at <and>: wrong number of args for and: want at least 1 got 0",
        ),
        (
            "{{eq 1}}",
            ":1:2: executing \"\" at <eq 1>: error calling eq: missing argument for comparison",
        ),
        (
            "{{eq 1 \"a\"}}",
            ":1:2: executing \"\" at <eq 1 \"a\">: error calling eq: incompatible types for comparison",
        ),
        (
            "{{lt true false}}",
            ":1:2: executing \"\" at <lt true false>: error calling lt: invalid type for comparison",
        ),
        ("{{len 3}}", ":1:2: executing \"\" at <len 3>: error calling len: len of type int"),
        (
            "{{index .Names 2}}",
            ":1:2: executing \"\" at <index .Names 2>: error calling index: index out of range: 2",
        ),
        (
            "{{index .Names -1}}",
            ":1:2: executing \"\" at <index .Names -1>: error calling index: index out of range: -1",
        ),
        (
            "{{index .Empty 0}}",
            ":1:2: executing \"\" at <index .Empty 0>: error calling index: index out of range: 0",
        ),
        (
            "{{index .Names \"x\"}}",
            ":1:2: executing \"\" at <index .Names \"x\">: error calling index: cannot index slice/array with type string",
        ),
        (
            "{{slice .Name 1 30}}",
            ":1:2: executing \"\" at <slice .Name 1 30>: error calling slice: index out of range: 30",
        ),
        (
            "{{slice .Name 2 1}}",
            ":1:2: executing \"\" at <slice .Name 2 1>: error calling slice: invalid slice index: 2 > 1",
        ),
        (
            "{{slice .Config.Labels 2 1}}",
            ":1:2: executing \"\" at <slice .Config.Labels...>: error calling slice: can't slice item of type map[string]interface {}",
        ),
        (
            "{{join .Name \",\"}}",
            ":1:7: executing \"\" at <.Name>: wrong type for value; expected []string; got string",
        ),
        (
            "{{pad .Name 99999999 0}}",
            ":1:12: executing \"\" at <99999999>: 99999999 is not between 0 and 10000",
        ),
        (
            "{{.Name \"x\"}}",
            ":1:2: executing \"\" at <.Name>: Name is not a method but has arguments",
        ),
        ("{{\"a\" \"b\"}}", ":1:2: executing \"\" at <\"a\">: can't give argument to non-function"),
    ] {
        refuses(source, said);
    }
}

#[test]
fn what_does_not_parse_is_explained() {
    for (source, said) in [
        ("{{", ":1: unclosed action"),
        ("{{.Name", ":1: unclosed action"),
        ("{{}}", ":1: missing value for command"),
        ("{{end}}", ":1: unexpected {{end}}"),
        ("{{else}}", ":1: unexpected {{else}}"),
        ("{{if}}", ":1: missing value for if"),
        ("{{range}}", ":1: missing value for range"),
        ("\n{{if}}", ":2: missing value for if"),
        ("{{if .On}}", ":1: unexpected EOF"),
        ("{{if .On}}{{else}}{{else}}{{end}}", ":1: expected end; found {{else}}"),
        ("{{if 1}}{{end 1}}", ":1: unexpected \"1\" in end"),
        ("{{foo}}", ":1: function \"foo\" not defined"),
        ("{{.ID | foo}}", ":1: function \"foo\" not defined"),
        ("{{$x}}", ":1: undefined variable \"$x\""),
        ("{{$x = 1}}", ":1: undefined variable \"$x\""),
        ("{{if $x := 1}}{{end}}{{$x}}", ":1: undefined variable \"$x\""),
        ("{{range $i, $e, $f := .}}{{end}}", ":1: too many declarations in range"),
        ("{{.Name.}}", ":1: unexpected <.> in operand"),
        ("{{1 | 2}}", ":1: non executable command in pipeline stage 2"),
        ("{{|}}", ":1: unexpected \"|\" in command"),
        ("{{1)}}", ":1: unexpected right paren in command"),
        ("{{(1}}", ":1: unclosed left paren"),
        ("{{true.x}}", ":1: unexpected . after term"),
        ("{{break}}", ":1: {{break}} outside {{range}}"),
        ("{{.Na-me}}", ":1: bad character U+002D '-'"),
        ("{{@}}", ":1: unexpected '@' in command"),
        ("{{template \"x\"}}", ":1: {{template}} is not supported"),
    ] {
        refuses(source, said);
    }
}

#[test]
fn labels_are_asked_for() {
    let label = |key: &str| format!("<{key}>");
    let view = View { label: Some(&label), ..strict() };
    let render = |source| Template::parse(source).and_then(|t| t.render(&data(), view));
    assert_eq!(render("{{.Label \"a.b\"}} {{\"c\" | .Label}}").as_deref(), Ok("<a.b> <c>"));
    assert!(render("{{.Label 1}}").is_err() && render("{{.Label \"a\" \"b\"}}").is_err());
}

#[test]
fn headings_pass_through_functions_of_text() {
    let heading = |source| {
        let view = View { heading: true, ..View::default() };
        Template::parse(source).and_then(|t| t.render(&json!({"Name": "NAME"}), view))
    };
    let source =
        "{{lower .Name}}|{{truncate .Name 2}}|{{pad .Name 1 1}}|{{join (split .Name \"M\") \",\"}}";
    assert_eq!(heading(source).as_deref(), Ok("NAME|NAME| NAME |NAME"));
    assert_eq!(heading("{{.Other}}").as_deref(), Ok("<no value>"));
    assert!(heading("{{json .}}").is_err());
}

#[test]
fn no_template_runs_for_ever_or_overflows_the_stack() {
    let render = |source: &str| Template::parse(source).and_then(|t| t.render(&data(), strict()));
    assert!(render("{{range 9999999999}}{{end}}{{range 9999999999}}x{{end}}").is_err());
    assert!(render("{{$x := \"abc\"}}{{range 99}}{{$x = print $x $x}}{{end}}").is_err());
    assert!(render(&"{{if 1}}".repeat(100_000)).is_err());
    assert!(render(&format!("{{{{{}1", "(".repeat(100_000))).is_err());
    assert!(render(&"{{if 0}}{{else if 1}}".repeat(100_000)).is_err());
    assert!(render(&format!("{{{{if 0}}}}{}", "{{else if 0}}".repeat(100_000))).is_err());
}

proptest! {
    #[test]
    fn no_template_panics(source in "([a-z .|()]|\\{\\{|\\}\\}|\\{\\{- | -\\}\\}|/\\*|\\*/|[\"'`$,:=0-9x+-]|end|else|if|with|range|\\.Names|\\$x := |index |slice |printf |\\.|é){0,24}") {
        if let Ok(template) = Template::parse(&source) {
            let _ = template.render(&data(), strict());
        }
    }

    #[test]
    fn printf_takes_any_format(format in "(%|[-+ #0]|[0-9]{1,6}|\\.|[a-zU]|é){0,12}") {
        let source = json!({"F": format});
        let template = Template::parse("{{printf .F 1 \"é\" -2.5 true nil .}}").expect("it parses");
        prop_assert!(template.render(&source, View::default()).is_ok());
    }
}
