//! Probes by socket against servers that answer well, badly and not at all: over loopback, and inside a network
//! namespace (which needs root).

mod bad_input;
mod checks;
mod support;

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    path::PathBuf,
    process::Command,
    thread,
    time::Duration,
};

use ringmesh_agentd::probe::{Check, CheckId, HttpCheck, MAX_ANSWER, Refused};
use support::*;

/// Probes servers of all kinds at the same time.
fn every_kind_of_server(netns: &Option<PathBuf>) {
    let slow = |pieces: &'static [&'static str]| {
        http(netns, move |stream| {
            for piece in pieces.iter().cycle() {
                if stream.write_all(piece.as_bytes()).is_err() {
                    return;
                }
                thread::sleep(Duration::from_millis(20));
            }
        })
    };
    let headers = "HTTP/1.1 200 OK\r\nX: ".to_owned() + &"x".repeat(1 << 20);
    let giant_headers = http(netns, move |stream| drop(stream.write_all(headers.as_bytes())));
    let line = "HTTP/1.1 200 ".to_owned() + &"x".repeat(1 << 20);
    let giant_line = http(netns, move |stream| drop(stream.write_all(line.as_bytes())));
    let slow_body = http(netns, |stream| {
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").expect("the probe reads");
        let _ = stream.read(&mut [0]);
    });
    let unavailable = says(netns, "HTTP/1.1 503 Service Unavailable\r\nA: b\r\n\r\nthe database\r\nis gone");
    let health = grpc(netns, true);
    let cases = [
        (Check::Tcp { address: silent(netns) }, PATIENCE, Ok("connected")),
        (Check::Tcp { address: refused(netns) }, PATIENCE, Err("connection refused")),
        (Check::Tcp { address: deaf(netns) }, SHORT, Err("no answer within 300 ms")),
        (http_check(says(netns, "HTTP/1.1 200 OK\r\n\r\nfine")), PATIENCE, Ok("HTTP 200 OK: fine")),
        (http_check(says(netns, "HTTP/1.0 302 Found\n\n")), PATIENCE, Ok("HTTP 302 Found")),
        (http_check(unavailable), PATIENCE, Err("HTTP 503 Service Unavailable: the database  is gone")),
        (
            Check::Http(Box::new(HttpCheck { status: vec![(503, 503)], ..HttpCheck::get(unavailable, "/") })),
            PATIENCE,
            Ok("HTTP 503 Service Unavailable: the database  is gone"),
        ),
        (http_check(refused(netns)), PATIENCE, Err("connection refused")),
        (http_check(deaf(netns)), SHORT, Err("no answer within 300 ms")),
        (http_check(silent(netns)), SHORT, Err("no answer within 300 ms")),
        (http_check(says(netns, "")), PATIENCE, Err("the connection was closed without an answer")),
        (http_check(says(netns, "HTTP/1.1 2")), PATIENCE, Err("the connection was closed within the status line")),
        (
            http_check(says(netns, "SSH-2.0-x\r\n\u{1b}")),
            PATIENCE,
            Err("the answer is not HTTP/1.1: \"SSH-2.0-x\\r\\n\\u{1b}\""),
        ),
        (http_check(giant_headers), PATIENCE, Ok("HTTP 200 OK")),
        (http_check(giant_line), PATIENCE, Err("the answer is not HTTP/1.1: ")),
        (http_check(slow(&["HTTP/1.1 200 O"])), PATIENCE, Err("the answer is not HTTP/1.1: ")),
        (
            http_check(slow(&["H", "T", "T", "P", "/", "1", ".", "1", " ", "2", "0", "0", " "])),
            SHORT,
            Err("no answer within 300 ms"),
        ),
        (http_check(slow_body), PATIENCE, Ok("HTTP 200 OK")),
        (grpc_check(health, ""), PATIENCE, Ok("SERVING")),
        (grpc_check(health, "good"), PATIENCE, Ok("SERVING")),
        (grpc_check(health, "bad"), PATIENCE, Err("NOT_SERVING")),
        (grpc_check(health, "other"), PATIENCE, Err("the server knows no service \"other\"")),
        (grpc_check(grpc(netns, false), ""), PATIENCE, Err("the server has no gRPC health service")),
        (grpc_check(refused(netns), ""), PATIENCE, Err("connection refused")),
        (grpc_check(silent(netns), ""), SHORT, Err("no answer within 300 ms")),
        (grpc_check(says(netns, "HTTP/1.1 200 OK\r\n\r\n"), ""), PATIENCE, Err("no gRPC answer: ")),
    ];

    let (prober, mut replies) = prober(64);
    let mut expected = BTreeMap::new();
    for (id, (check, timeout, answer)) in (0..).zip(cases) {
        expected.insert(CheckId(id), (check.target(), timeout, answer));
        prober.start(request(id, check, netns, timeout)).expect("there is room");
    }
    while !expected.is_empty() {
        let reply = replies.blocking_recv().expect("the prober lives");
        let (target, timeout, answer) = expected.remove(&reply.id).expect("one reply a request");
        let (success, words) = match answer {
            Ok(words) => (true, words),
            Err(words) => (false, words),
        };
        assert_eq!(reply.sign.is_right(), success, "{target}: {reply:?}");
        assert!(reply.answer.starts_with(words), "{target}: {reply:?}, not {words:?}");
        assert!(words.ends_with(": ") || reply.answer == words || words.ends_with("1.1: "), "{target}: {reply:?}");
        assert!(reply.answer.len() <= MAX_ANSWER, "{target}: {reply:?}");
        // Both ways the scheduler of a busy machine has its say; a probe that waits on is seconds late.
        let bounds = if timeout == SHORT { SHORT..SHORT * 10 } else { Duration::from_nanos(1)..PATIENCE / 2 };
        assert!(bounds.contains(&reply.latency), "{target}: {reply:?}");
    }
    assert_eq!(prober.refused(), 0);
}

#[test]
fn every_kind_of_server_over_loopback() {
    every_kind_of_server(&None);
}

#[test]
#[ignore = "needs root"]
fn root_every_kind_of_server_in_a_namespace() {
    let netns = Netns::new();
    every_kind_of_server(&Some(netns.path()));
}

#[test]
#[ignore = "needs root"]
fn root_a_probe_leaves_no_connection_and_holds_no_namespace() {
    let netns = Netns::new();
    let path = Some(netns.path());
    let (prober, mut replies) = prober(8);
    let well = says(&path, "HTTP/1.1 200 OK\r\n\r\nfine");
    let served = grpc(&path, true);
    let kinds = [http_check(well), Check::Tcp { address: well }, grpc_check(served, "")];
    // Often, for whether a socket stays depends on whose end is closed first.
    for (id, check) in (0..).zip(kinds.iter().cycle().take(300).cloned()) {
        prober.start(request(id, check, &path, PATIENCE)).expect("there is room");
        let reply = replies.blocking_recv().expect("the prober lives");
        assert!(reply.sign.is_right(), "{reply:?}");
    }
    // The server's end goes with our reset, at the latest when its thread reads it. No TIME_WAIT (06) stays.
    eventually("all sockets are gone", || netns.sockets().is_empty());
    let home = fs::read_link("/proc/self/ns/net").expect("proc is mounted");
    eventually("the probing threads are at home", || {
        let tasks =
            fs::read_dir("/proc/self/task").expect("proc is mounted").map(|task| task.expect("an entry").path());
        tasks
            .filter(|task| fs::read_to_string(task.join("comm")).is_ok_and(|name| name == "probe\n"))
            .all(|task| fs::read_link(task.join("ns/net")).is_ok_and(|netns| netns == home))
    });
}

#[test]
#[ignore = "needs root"]
fn root_the_namespace_is_the_one_of_the_request() {
    let (one, other) = (Netns::new(), Netns::new());
    let address = silent(&Some(one.path()));
    let (prober, mut replies) = prober(8);
    // An empty file is what `ip netns` leaves after a reboot.
    let file = tempfile::NamedTempFile::new().expect("a file");
    let mut zombie = Command::new("true").spawn().expect("coreutils is installed");
    eventually("the process has ended", || {
        fs::read_to_string(format!("/proc/{}/stat", zombie.id())).expect("not waited for").contains(") Z ")
    });
    let cases = [
        (Some(one.path()), "connected"),
        (Some(other.path()), "connection refused"),
        (Some(one.path()), "connected"),
        (None, "connection refused"),
        (Some("/run/netns/there-is-none".into()), "the container does not run"),
        (Some(format!("/proc/{}/ns/net", zombie.id()).into()), "the container does not run"),
        (Some(file.path().into()), "the container does not run: "),
        (Some(one.path()), "connected"),
    ];
    for (netns, answer) in &cases {
        prober.start(request(0, Check::Tcp { address }, netns, PATIENCE)).expect("there is room");
        let reply = replies.blocking_recv().expect("the prober lives");
        assert!(reply.answer.starts_with(answer), "{netns:?}: {reply:?}");
    }
    zombie.wait().expect("it has ended");
}

#[test]
fn what_is_too_much_is_refused_and_counted() {
    let address = silent(&None);
    let (prober, mut replies) = prober(2);
    let mut taken = 0;
    while prober.start(request(taken, http_check(address), &None, SHORT)).is_ok() {
        taken += 1;
        assert!(taken < 100_000, "the queue has a bound");
    }
    assert!(taken > 1000, "and room for a burst");
    assert_eq!(prober.start(request(0, http_check(address), &None, SHORT)), Err(Refused::Busy));
    assert_eq!(prober.refused(), 2);
    // The time in the queue is no time of the service.
    for _ in 0..4 {
        let reply = replies.blocking_recv().expect("the prober lives");
        assert_eq!(reply.answer, "no answer within 300 ms");
        assert!(reply.latency < SHORT * 10, "{reply:?}");
    }
}

#[test]
fn every_request_has_its_reply() {
    let address = refused(&None);
    let (prober, mut replies) = prober(4);
    let checks = [Check::Tcp { address }, http_check(address), grpc_check(address, "")];
    let expected: Vec<_> = (0..1000).collect();
    for (id, check) in expected.iter().zip(checks.iter().cycle()) {
        prober.start(request(*id, check.clone(), &None, PATIENCE)).expect("there is room");
    }
    let mut seen: Vec<_> = (0..1000).map(|_| replies.blocking_recv().expect("the prober lives").id.0).collect();
    seen.sort();
    assert_eq!(seen, expected);
}

#[test]
fn without_a_runner_exec_probes_are_refused() {
    let (prober, _replies) = prober(2);
    let check = Check::Exec { argv: vec!["true".into()] };
    eventually("it is known that no runner lives", || {
        prober.start(request(0, check.clone(), &None, SHORT)) == Err(Refused::NoRunner)
    });
    assert!(prober.refused() > 0);
}
