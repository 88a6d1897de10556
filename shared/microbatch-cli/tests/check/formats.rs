//! What the command prints, and how it ends.

use super::{GOOD, SEEDS, Template, check, report, rules, stdout};

fn seeded(rule: &str) -> Template {
    Template::new(SEEDS.iter().find(|seed| seed.rule == rule).expect("a seed").template())
}

#[test]
fn a_finding_says_where_what_and_how_to_mend_it() {
    let template = seeded("MB002");
    let file = template.path.display();
    assert_eq!(
        stdout(&check(&template.path, &[])),
        format!(
            "{file}:54 MB002 error OrdersQueue.VisibilityTimeout: VisibilityTimeout is 180 s, less than 6 x 30 s (the Timeout of \
             OrdersFunction) + 1 s (the window) = 181 s: messages of a throttled batch come back while it is tried again, and \
             use up their deliveries\n  \
             fix in OrdersQueue.Properties:\n    \
             VisibilityTimeout: 181\n  \
             see Creating and configuring an Amazon SQS event source mapping (AWS Lambda Developer Guide)\n\
             1 template, 2 functions, 2 mappings: 1 error, 0 warnings\n"
        )
    );
}

#[test]
fn warnings_alone_fail_only_when_strict() {
    let template = seeded("MB011");
    assert_eq!(check(&template.path, &[]).status.code(), Some(0));
    assert_eq!(check(&template.path, &["--strict"]).status.code(), Some(1));
}

#[test]
fn parameters_are_given_on_the_command_line() {
    let template = Template::new(GOOD);
    let (found, code) = report(&template.path, &["--parameter", "Window=5"]);
    assert_eq!((rules(&found), code), (vec!["MB002"], Some(1)), "{found:#}");
    for (parameter, expected) in [
        ("Window=2", "expected one of 0, 1, 5; found 2"),
        ("Windows=5", "no template declares the parameter Windows"),
        ("Window", "expected KEY=VALUE"),
    ] {
        let output = check(&template.path, &["--parameter", parameter]);
        assert_eq!(output.status.code(), Some(2), "{parameter}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(expected), "{parameter}: {output:?}");
    }
}

#[test]
fn what_is_meant_can_be_skipped_with_a_reason() {
    let text = SEEDS.iter().find(|seed| seed.rule == "MB011").expect("a seed").template();
    let skip = |skip: &str| {
        let from = "  OrdersFunction:\n    Type: AWS::Serverless::Function\n";
        let to = format!("{from}    Metadata: {{ microbatch: {{ skip: [{skip}] }} }}\n");
        Template::new(text.replace(from, &to))
    };
    let output = check(&skip("{ id: MB011, comment: only big orders come here }").path, &["--strict"]);
    assert!(stdout(&output).ends_with("0 errors, 0 warnings, 1 skipped by Metadata\n"), "{output:?}");
    assert_eq!(output.status.code(), Some(0));
    for other in ["{ id: MB011 }", "{ id: MB010, comment: why }", "MB011"] {
        assert_eq!(check(&skip(other).path, &["--strict"]).status.code(), Some(1), "{other}");
    }
}

#[test]
fn what_is_no_template_is_told_from_what_is_wrong_with_one() {
    let bomb: String = (1..30).map(|n| format!("a{n}: &a{n} [*a{p}, *a{p}, *a{p}]\n", p = n - 1)).collect();
    let cases: [(&str, Vec<u8>, &str); 11] = [
        ("nothing", Vec::new(), "found nothing"),
        ("binary", vec![0xff, 0xfe, 0x00, 0x80], "UTF-8"),
        ("zeros", vec![0; 10_000], "unexpected character"),
        ("no YAML", b"Resources: {}\nOutputs: [\n".to_vec(), ":2: unclosed bracket"),
        ("another shape", b"apiVersion: v1\nkind: Service\n".to_vec(), "no Resources"),
        ("a list", b"[1, 2]".to_vec(), "no Resources"),
        ("Resources that are a list", b"Resources: [1]".to_vec(), "no Resources"),
        ("two documents", b"Resources: {}\n---\nResources: {}\n".to_vec(), ":2: expected one document"),
        ("deep", format!("Resources: {}1{}", "[".repeat(200), "]".repeat(200)).into_bytes(), "levels of nesting"),
        ("a bomb", format!("a0: &a0 x\n{bomb}Resources: {{}}\n").into_bytes(), "with aliases expanded"),
        ("huge", vec![b' '; 5_000_000], "bytes, found more"),
    ];
    for (name, bytes, expected) in cases {
        let output = check(&Template::new(bytes).path, &[]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{name}: {output:?}");
        assert!(stderr.contains(expected), "{name}: {stderr}");
    }
}

#[test]
fn other_templates_are_checked_beside_one_that_cannot_be_read() {
    let (good, bad) = (Template::new(GOOD), Template::new("Resources: ["));
    let output = check(&good.path, &[bad.path.to_str().expect("text"), "/no/such/template.yaml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stdout(&output).starts_with("1 template,"), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("/no/such/template.yaml: cannot be read"), "{stderr}");
}

#[test]
fn what_is_not_known_is_told_with_the_rules_that_needed_it() {
    let text = GOOD.replace("    AllowedValues: [0, 1, 5]\n    Default: 1\n", "");
    let template = Template::new(text);
    let output = check(&template.path, &["--strict"]);
    let line = format!(
        "{}:108 not checkable OrdersFunction.Events.Queue.Properties.MaximumBatchingWindowInSeconds: parameter Window has no \
         default; give it by --parameter Window=VALUE (MB001, MB002, MB003, MB005, MB008, MB009)\n",
        template.path.display()
    );
    assert_eq!(
        stdout(&output),
        format!("{line}1 template, 2 functions, 2 mappings: 0 errors, 0 warnings, 1 not checkable\n")
    );
    assert_eq!(output.status.code(), Some(0), "what is not known is no mistake");
}

#[test]
fn names_cannot_disturb_the_terminal() {
    let text = GOOD.replace("MICROBATCH_NAMESPACE: ledger", "\"MICROBATCH_\\e[2J\": 1");
    let output = check(&Template::new(text).path, &[]);
    assert!(stdout(&output).contains("MICROBATCH_?[2J is no setting"), "{output:?}");
    assert!(!output.stdout.contains(&0x1b));
}
