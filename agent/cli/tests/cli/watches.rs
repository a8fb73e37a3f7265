//! Lists that go on, on no terminal.

use std::{
    io::{BufRead, BufReader, Read},
    process::Stdio,
};

use crate::{
    fake::{Agent, Manner},
    run::{asking, finish},
};

fn ending() -> Agent {
    Agent::start(Manner { ends: true, ..Manner::default() })
}

#[test]
fn rows_as_they_change() {
    let agent = ending();
    let ran = finish(asking(&agent, &["host", "list", "--watch"]));
    assert_eq!(
        ran.out,
        "\
CHANGE   NAME  STATE     UPLINK-A  UPLINK-B  CONTAINERS  SERVICES  SCORE  ZONE     SINCE
present  h1    alive     up        degraded  4/4         7/8       97     default  3m
present  h2    alive     up        degraded  4/4         7/8       97     default  3m
updated  h2    suspect   down      degraded  4/4         7/8       97     default  3m
removed  h2    left      down      degraded  4/4         7/8       97     default  3m
"
    );
    // An agent that ends a watch has gone.
    assert_eq!(ran.code, 3);
    assert!(ran.err.contains("ended the watch: does its agent still run?"), "{}", ran.err);
}

#[test]
fn sources_come_and_go() {
    let agent = Agent::start(Manner { ends: true, missing: true, ..Manner::default() });
    let ran = finish(asking(&agent, &["container", "list", "-w", "-l", "tier=web"]));
    let said: Vec<&str> = ran.err.lines().take(2).collect();
    assert_eq!(said, ["h3 did not answer: timed out after 500 ms; its containers are missing", "h3 answers again"]);
    assert_eq!(ran.out.lines().count(), 2, "{}", ran.out);
    let asked = &agent.asked()[0];
    assert!(asked.starts_with(r#"WatchContainersRequest { host: "", labels: {"tier": "web"}, "#), "{asked}");
}

#[test]
fn documents_one_a_line() {
    let agent = ending();
    let ran = finish(asking(&agent, &["host", "list", "--watch", "-o", "json"]));
    let lines: Vec<serde_json::Value> =
        ran.out.lines().map(|line| serde_json::from_str(line).expect("a document a line")).collect();
    let changes: Vec<&str> = lines.iter().filter_map(|line| line["change"].as_str()).collect();
    assert_eq!(changes, ["present", "present", "synced", "updated", "removed"]);
    assert_eq!(lines[3]["host"]["state"], "suspect");

    let ran = finish(asking(&agent, &["service", "list", "--watch", "-o", "yaml"]));
    assert_eq!(ran.out.lines().filter(|line| *line == "---").count(), 2, "{}", ran.out);
}

#[test]
fn events_until_the_end() {
    let agent = ending();
    let ran = finish(asking(&agent, &["event", "watch", "--backlog", "2", "--on", "h3"]));
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines[0], "TIME                      SEVERITY  KIND             ABOUT             TEXT");
    assert!(lines[2].ends_with("Z  critical  host-down        h3                h3 is down, event 2"), "{}", ran.out);
    assert_eq!(agent.asked(), [r#"WatchEventsRequest { backlog: 2, host: "h3", kind: "", after: "" }"#]);

    let ran = finish(asking(&agent, &["event", "list", "--watch", "-o", "json"]));
    let first = ran.out.lines().next().expect("a line");
    let first: serde_json::Value = serde_json::from_str(first).expect("a document a line");
    assert_eq!(first["text"], "h3 is down, event 1");
}

#[test]
fn a_watch_goes_on() {
    let agent = Agent::start(Manner::default());
    let mut child =
        asking(&agent, &["ring", "show", "--watch"]).stdout(Stdio::piped()).spawn().expect("the binary starts");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let seen: Vec<String> =
        lines.map(|line| line.expect("UTF-8")).take_while(|line| !line.starts_with("not up")).collect();
    assert!(seen.iter().any(|line| line.contains("h2 ─╳─ h10")), "{seen:?}");
    assert_eq!(child.try_wait().expect("ours"), None, "it goes on");
    child.kill().expect("ours");
    child.wait().expect("ours");
}

#[test]
fn a_reader_that_has_seen_enough() {
    let agent = Agent::start(Manner { endless: true, ..Manner::default() });
    for format in ["table", "json"] {
        let mut child = asking(&agent, &["event", "watch", "-o", format])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut first = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        out.read_line(&mut first).expect("a line");
        drop(out);
        let mut err = String::new();
        child.stderr.take().expect("piped").read_to_string(&mut err).expect("UTF-8");
        assert_eq!((child.wait().expect("ours").code(), err.as_str()), (Some(0), ""), "{format}");
    }
}
