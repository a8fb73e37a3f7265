//! What is wrong with the options is one line, and status 2.

use std::process::Command;

#[test]
fn a_wrong_option_is_one_clear_line_and_status_2() {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data").display().to_string();
    let cases: [(&[&str], &str); 6] = [
        (&["--listen-client-urls", "127.0.0.1:1"], "--listen-client-urls"),
        (&["--listen-client-urls", "https://127.0.0.1:1"], "TLS"),
        (&["--name", "a b"], "--name"),
        (&["--initial-cluster", "b=http://127.0.0.1:1"], "--initial-cluster lacks"),
        (&["--initial-cluster", "default=http://127.0.0.1:1,default=http://127.0.0.1:2"], "twice"),
        (&["--log-level", "ringmesh=loud"], "--log-level"),
    ];
    for (options, expected) in cases {
        let output = Command::new(env!("CARGO_BIN_EXE_ringmesh"))
            .args(["store", "serve", "--standalone", "--data-dir", &data])
            .args(options)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{options:?}: {text}");
        assert_eq!(text.lines().count(), 1, "{options:?}: {text}");
        assert!(text.contains(expected), "{options:?}: {text}");
    }
}

#[test]
fn without_standalone_it_says_what_is_missing() {
    let output = Command::new(env!("CARGO_BIN_EXE_ringmesh")).args(["store", "serve", "--data-dir", "/x"]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("--standalone"));
}
