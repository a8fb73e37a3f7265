//! etcdctl of Debian.

use std::{
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Output, Stdio},
};

use crate::support::{Member, eventually};

fn etcdctl(member: &Member, arguments: &[&str]) -> Command {
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").args(["--endpoints", &member.url(), "--command-timeout", "30s"]).args(arguments);
    command
}

/// What it says, if it succeeds.
fn say(member: &Member, arguments: &[&str]) -> String {
    let output = etcdctl(member, arguments).output().expect("etcdctl is installed: apt-get install etcd-client");
    assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// What it says, if it fails.
fn fail(member: &Member, arguments: &[&str]) -> String {
    let output = etcdctl(member, arguments).output().expect("etcdctl is installed: apt-get install etcd-client");
    assert!(!output.status.success(), "{arguments:?}: {}", text(&output));
    text(&output)
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// One that goes on, and is killed in the end.
struct Running(Child);

impl Running {
    fn start(member: &Member, arguments: &[&str]) -> (Self, BufReader<std::process::ChildStdout>) {
        let mut command = etcdctl(member, arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("etcdctl is installed");
        let said = BufReader::new(child.stdout.take().unwrap());
        (Self(child), said)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn line(said: &mut impl BufRead) -> String {
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    line.trim_end().to_owned()
}

#[tokio::test]
#[ignore = "needs Debian's etcd-client"]
async fn keys_transactions_and_compaction() {
    let member = Member::alone();
    member.ready().await;
    assert_eq!(say(&member, &["put", "k", "v1"]), "OK\n");
    assert_eq!(say(&member, &["put", "k", "v2", "--prev-kv"]), "OK\nk\nv1\n");
    assert_eq!(say(&member, &["get", "k"]), "k\nv2\n");
    assert_eq!(say(&member, &["get", "k", "--rev=2"]), "k\nv1\n");
    for number in 0..5 {
        say(&member, &["put", &format!("p/{number}"), &number.to_string()]);
    }
    assert_eq!(say(&member, &["get", "p/", "--prefix", "--keys-only", "--limit=2"]), "p/0\n\np/1\n\n");
    assert_eq!(say(&member, &["get", "p/", "--prefix", "--print-value-only", "--order=DESCEND"]), "4\n3\n2\n1\n0\n");
    assert_eq!(say(&member, &["del", "p/", "--prefix"]), "5\n");
    let mut txn = etcdctl(&member, &["txn"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    txn.stdin.take().unwrap().write_all(b"value(\"k\") = \"v2\"\n\nput k v3\nget k\n\nput k no\n\n").unwrap();
    let output = txn.wait_with_output().unwrap();
    assert!(text(&output).contains("SUCCESS") && text(&output).ends_with("k\nv3\n"), "{}", text(&output));
    assert_eq!(say(&member, &["compact", "9"]), "compacted revision 9\n");
    assert!(fail(&member, &["get", "k", "--rev=2"]).contains("required revision has been compacted"));
    assert!(fail(&member, &["compact", "9"]).contains("required revision has been compacted"));
    assert_eq!(say(&member, &["defrag"]), format!("Finished defragmenting etcd member[{}]\n", member.url()));
}

#[tokio::test]
#[ignore = "needs Debian's etcd-client"]
async fn watches() {
    let member = Member::alone();
    member.ready().await;
    say(&member, &["put", "k", "before"]);
    let (_watch, mut said) = Running::start(&member, &["watch", "k", "--rev=2"]);
    assert_eq!([line(&mut said), line(&mut said), line(&mut said)], ["PUT", "k", "before"]);
    say(&member, &["put", "k", "now"]);
    assert_eq!([line(&mut said), line(&mut said), line(&mut said)], ["PUT", "k", "now"]);
    say(&member, &["del", "k"]);
    assert_eq!([line(&mut said), line(&mut said), line(&mut said)], ["DELETE", "k", ""]);
}

#[tokio::test]
#[ignore = "needs Debian's etcd-client"]
async fn leases() {
    let member = Member::alone();
    member.ready().await;
    let granted = say(&member, &["lease", "grant", "100"]);
    let id = granted.split(' ').nth(1).unwrap();
    assert_eq!(granted, format!("lease {id} granted with TTL(100s)\n"));
    say(&member, &["put", "k", "v", "--lease", id]);
    let left = say(&member, &["lease", "timetolive", id, "--keys"]);
    assert!(
        left.starts_with(&format!("lease {id} granted with TTL(100s), remaining(")) && left.contains("[k]"),
        "{left}"
    );
    assert_eq!(say(&member, &["lease", "keep-alive", "--once", id]), format!("lease {id} keepalived with TTL(100)\n"));
    assert_eq!(say(&member, &["lease", "list"]), format!("found 1 leases\n{id}\n"));
    assert_eq!(say(&member, &["lease", "revoke", id]), format!("lease {id} revoked\n"));
    assert_eq!(say(&member, &["get", "k"]), "");
    assert!(fail(&member, &["lease", "revoke", id]).contains("requested lease not found"));
}

#[tokio::test]
#[ignore = "needs Debian's etcd-client"]
async fn locks_and_elections() {
    let member = Member::alone();
    member.ready().await;
    let (first, mut first_said) = Running::start(&member, &["lock", "door"]);
    assert!(line(&mut first_said).starts_with("door/"));
    let (_second, mut second_said) = Running::start(&member, &["lock", "door"]);
    eventually("two stand in line", || async {
        let keys = say(&member, &["get", "door/", "--prefix", "--keys-only"]);
        if keys.split_whitespace().count() == 2 { Ok(()) } else { Err(keys) }
    })
    .await;
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(first.0.id().try_into().unwrap()),
        nix::sys::signal::Signal::SIGINT,
    )
    .unwrap();
    assert!(line(&mut second_said).starts_with("door/"));
    let (_leader, mut leader_said) = Running::start(&member, &["elect", "office", "me"]);
    assert!(line(&mut leader_said).starts_with("office/"));
    assert_eq!(line(&mut leader_said), "me");
    let (_observer, mut observed) = Running::start(&member, &["elect", "-l", "office"]);
    assert!(line(&mut observed).starts_with("office/"));
    assert_eq!(line(&mut observed), "me");
}

#[tokio::test]
#[ignore = "needs Debian's etcd-client"]
async fn the_state_of_a_member() {
    let member = Member::alone();
    member.ready().await;
    assert!(say(&member, &["endpoint", "status"]).contains(", 3.4.23, "));
    let health = etcdctl(&member, &["endpoint", "health"]).output().unwrap();
    assert!(text(&health).contains("is healthy"), "{}", text(&health));
    assert!(say(&member, &["endpoint", "hashkv"]).starts_with(&member.url()));
    let members = say(&member, &["member", "list"]);
    assert!(members.contains(&format!(", started, a, http://127.0.0.1:2380, {}, false", member.url())), "{members}");
    assert_eq!(say(&member, &["alarm", "list"]), "");
    assert!(fail(&member, &["member", "add", "b", "--peer-urls=http://127.0.0.1:1"]).contains("--initial-cluster"));
    assert!(fail(&member, &["auth", "enable"]).contains("root user does not exist"));
    let file = member.directory().join("snapshot").display().to_string();
    assert!(say(&member, &["snapshot", "save", &file]).contains("Snapshot saved at"));
}

#[tokio::test]
#[ignore = "needs Debian's etcd-client; takes a minute"]
async fn the_small_check_of_performance_passes() {
    let member = Member::alone();
    member.ready().await;
    let said = say(&member, &["check", "perf", "--load=s"]);
    assert!(said.lines().last() == Some("PASS"), "{said}");
}
