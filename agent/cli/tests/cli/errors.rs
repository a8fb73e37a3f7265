//! What goes wrong: the exit status, and one line that says what, why and what to do next.

use std::os::unix::net::UnixListener;

use tonic::Code;

use crate::{
    fake::{Agent, Manner},
    run::{Ran, asking, asking_at, command, finish},
};

fn one_line(ran: &Ran) {
    assert!(ran.err.starts_with("error: ") && ran.err.ends_with('\n'), "{}", ran.err);
    assert_eq!(ran.err.trim_end().lines().count(), 1, "{}", ran.err);
    assert_eq!(ran.out, "");
}

#[test]
fn every_refusal_has_its_status() {
    for (code, expected) in [
        (Code::NotFound, 4),
        (Code::InvalidArgument, 2),
        (Code::PermissionDenied, 5),
        (Code::Unauthenticated, 5),
        (Code::FailedPrecondition, 5),
        (Code::AlreadyExists, 5),
        (Code::Aborted, 5),
        (Code::ResourceExhausted, 5),
        (Code::DeadlineExceeded, 6),
        (Code::Unavailable, 3),
        (Code::Unimplemented, 1),
        (Code::Internal, 1),
        (Code::Unknown, 1),
    ] {
        let agent = Agent::start(Manner { refuses: Some(code), ..Manner::default() });
        let questions: &[&[&str]] = if code == Code::NotFound {
            // One of each kind of question: the status is the same for all.
            &[
                &["host", "show", "h1"],
                &["host", "list", "--watch"],
                &["ring", "show", "--watch"],
                &["service", "show", "x"],
                &["event", "watch"],
                &["token", "create"],
                &["leave"],
                &["config", "show"],
            ]
        } else {
            &[&["container", "list"]]
        };
        for question in questions {
            let ran = finish(asking(&agent, question));
            assert_eq!(ran.code, expected, "{code:?} {question:?}: {}", ran.err);
            one_line(&ran);
        }
    }
}

#[test]
fn nobody_there() {
    let ran = finish(command(&["--host", "/nowhere/agent.sock", "host", "list"]));
    assert_eq!(ran.code, 3);
    assert_eq!(
        ran.err,
        "error: no agent at unix:/nowhere/agent.sock (No such file or directory): start one with `ringmesh agent`, or \
         name a host with --host\n"
    );

    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("agent.sock");
    drop(UnixListener::bind(&path).expect("a socket"));
    let ran = finish(asking_at(&path, &["host", "list"]));
    assert_eq!(ran.code, 3);
    assert!(ran.err.contains("(Connection refused)"), "{}", ran.err);
    one_line(&ran);

    // The version of this program needs nobody.
    let ran = finish(asking_at(&path, &["version"]));
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "ringmesh 0.1.0\n", ""));
}

#[test]
fn something_else_is_there() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("agent.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let server = std::thread::spawn(move || {
        use std::io::Write;
        let (mut stream, _) = listener.accept().expect("someone asks");
        let _ = stream.write_all(b"220 mail.example ESMTP\r\n");
    });
    let ran = finish(asking_at(&path, &["host", "list"]));
    assert_eq!(ran.code, 3, "{}", ran.err);
    one_line(&ran);
    server.join().expect("ends");
}

#[test]
fn tcp_needs_certificates() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let empty = directory.path().join("empty.pem");
    std::fs::write(&empty, "nothing").expect("writes");
    let there = empty.to_str().expect("UTF-8");
    for (ca, expected) in [
        ("/nowhere/ca.pem", "cannot read /nowhere/ca.pem (No such file or directory): name another file with --ca"),
        (there, "empty.pem (no items found): name another file with --ca"),
    ] {
        let ran = finish(command(&["--host", "127.0.0.1:1", "--ca", ca, "host", "list"]));
        assert_eq!(ran.code, 1);
        assert!(ran.err.contains(expected), "{}", ran.err);
        one_line(&ran);
    }
}

#[test]
fn silence_times_out() {
    let agent = Agent::start(Manner { silent: true, ..Manner::default() });
    let ran = finish(asking(&agent, &["host", "list", "--timeout", "200ms"]));
    assert_eq!(ran.code, 6);
    assert!(ran.err.contains("did not answer within 200ms: try again, or wait longer with --timeout"), "{}", ran.err);
    one_line(&ran);
}

#[test]
fn an_agent_that_goes_away() {
    let agent = Agent::start(Manner { silent: true, ..Manner::default() });
    let question = asking(&agent, &["host", "list"]);
    let asker = std::thread::spawn(move || finish(question));
    while agent.asked().is_empty() {
        std::thread::yield_now();
    }
    drop(agent);
    let ran = asker.join().expect("ends");
    assert_eq!(ran.code, 3, "{}", ran.err);
    one_line(&ran);
}

#[test]
fn mistakes_in_the_command_line() {
    for arguments in [
        &["hots"][..],
        &["host", "show"],
        &["host", "list", "-o", "xml"],
        &["container", "list", "-l", "web"],
        &["event", "list", "--limit", "0"],
        &["token", "create", "--ttl", "soon"],
        &["token", "create", "--uses", "0"],
        &["lab", "up", "--hosts", "65"],
        &["lab", "fault", "cut-uplink", "h1", "c"],
        &["--host", "h1.example", "host", "list"],
        &["drain", "h1"],
    ] {
        let ran = finish(command(arguments));
        assert_eq!(ran.code, 2, "{arguments:?}: {}", ran.err);
        one_line(&ran);
    }
}
