//! The kinds of checks, each against servers that are right and wrong.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    thread,
    time::Duration,
};

use rcgen::{CertificateParams, Issuer, KeyPair};
use ringmesh_agentd::probe::{Check, Exchange, HttpCheck, JsonMatch, Match, Step, Tls, Trust};

use crate::support::*;

/// A server that answers each datagram with this; to silence with silence.
fn datagrams(netns: &Option<PathBuf>, answer: &'static [u8]) -> SocketAddr {
    let (sender, receiver) = mpsc::channel();
    let netns = netns.clone();
    thread::spawn(move || {
        enter(netns.as_ref());
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback is up");
        sender.send(socket.local_addr().expect("it is bound")).expect("the test waits");
        let mut bytes = [0; 2000];
        while let Ok((len, from)) = socket.recv_from(&mut bytes) {
            if !answer.is_empty() {
                let answer = if answer == b"echo" { &bytes[..len] } else { answer };
                socket.send_to(answer, from).expect("it is bound");
            }
        }
    });
    receiver.recv_timeout(PATIENCE).expect("the server starts")
}

/// A port of UDP where nobody listens.
fn closed() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("loopback is up")
}

fn exchange(address: SocketAddr, send: &[u8], expect: Option<Match>) -> Exchange {
    Exchange { address, send: send.to_vec(), expect }
}

fn prefix(text: &str) -> Option<Match> {
    Some(Match::Prefix(text.into()))
}

fn udp_and_talks(netns: &Option<PathBuf>) {
    let greets = listen(netns.clone(), |listener| {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accept works");
            stream.write_all(b"220 mail ready\r\n").expect("the probe reads");
            let mut asked = [0; 64];
            let len = stream.read(&mut asked).unwrap_or(0);
            let _ = stream.write_all(&asked[..len]);
        }
    });
    let echo = datagrams(netns, b"echo");
    let regex = |pattern: &str| Some(Match::Regex(pattern.into()));
    let cases = vec![
        (Check::Udp(exchange(echo, b"ping", Some(Match::Exact(b"ping".to_vec())))), PATIENCE, Ok("answered \"ping\"")),
        (Check::Udp(exchange(echo, b"ping", None)), PATIENCE, Ok("answered \"ping\"")),
        (
            Check::Udp(exchange(echo, b"\xff\0", regex("^p"))),
            PATIENCE,
            Err("answered \"\\xff\\x00\", not a match of /^p/"),
        ),
        (
            Check::Udp(exchange(datagrams(netns, b"no"), b"", prefix("yes"))),
            PATIENCE,
            Err("answered \"no\", not \"yes\" at its beginning"),
        ),
        (Check::Udp(exchange(datagrams(netns, b""), b"x", None)), SHORT, Err("no answer within 300 ms")),
        (Check::Talk(exchange(greets, b"", prefix("220 "))), PATIENCE, Ok("answered \"220 mail ready\"")),
        (
            Check::Talk(exchange(greets, b"NOOP\r\n", regex("NOOP"))),
            PATIENCE,
            Ok("answered \"220 mail ready\\r\\nNOOP\""),
        ),
        (
            Check::Talk(exchange(greets, b"", prefix("221"))),
            PATIENCE,
            Err("answered \"220 mail ready\", not \"221\" at its beginning"),
        ),
        (Check::Talk(exchange(refused(netns), b"", prefix("220 "))), PATIENCE, Err("connection refused")),
        (Check::Talk(exchange(silent(netns), b"", prefix("220 "))), SHORT, Err("no answer within 300 ms")),
    ];
    expect(netns, cases);
}

#[test]
fn udp_and_talks_over_loopback() {
    udp_and_talks(&None);
    // At once, and not when the time is over: the kernel says so.
    expect(&None, vec![(Check::Udp(exchange(closed(), b"ping", None)), PATIENCE, Err("connection refused"))]);
}

#[test]
#[ignore = "needs root"]
fn root_udp_icmp_and_talks_in_a_namespace() {
    let netns = Netns::new();
    let path = Some(netns.path());
    udp_and_talks(&path);
    ip(&["-n", netns.name(), "route", "add", "blackhole", "192.0.2.1/32"]);
    ip(&["-n", netns.name(), "link", "add", "dark0", "type", "veth", "peer", "name", "dark1"]);
    ip(&["-n", netns.name(), "addr", "add", "198.51.100.1/24", "dev", "dark0"]);
    ip(&["-n", netns.name(), "link", "set", "dark0", "up"]);
    ip(&["-n", netns.name(), "link", "set", "dark1", "up"]);
    let icmp = |address: IpAddr| Check::Icmp { address };
    let cases = vec![
        (icmp(Ipv4Addr::LOCALHOST.into()), PATIENCE, Ok("echo reply")),
        (icmp(Ipv6Addr::LOCALHOST.into()), PATIENCE, Ok("echo reply")),
        (icmp(Ipv4Addr::new(198, 51, 100, 1).into()), PATIENCE, Ok("echo reply")),
        (icmp(Ipv4Addr::new(198, 51, 100, 2).into()), SHORT, Err("no answer within 300 ms")),
        (icmp(Ipv4Addr::new(192, 0, 2, 1).into()), PATIENCE, Err("invalid argument")),
        (icmp(Ipv4Addr::new(203, 0, 113, 1).into()), PATIENCE, Err("network is unreachable")),
    ];
    expect(&path, cases);
    expect(&path, (0..200).map(|_| (icmp(Ipv4Addr::LOCALHOST.into()), PATIENCE, Ok("echo reply"))).collect());
}

/// GET / with these differences.
fn web(address: SocketAddr, change: impl FnOnce(&mut HttpCheck)) -> Check {
    let mut check = HttpCheck::get(address, "/");
    change(&mut check);
    Check::Http(Box::new(check))
}

fn contains(text: &str) -> Option<Match> {
    Some(Match::Contains(text.into()))
}

fn json(pointer: &str, equals: &str) -> Option<JsonMatch> {
    Some(JsonMatch { pointer: pointer.into(), equals: equals.into() })
}

#[test]
fn http_answers_are_judged_by_status_headers_and_body() {
    let page = says(&None, "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 11\r\n\r\nall is well");
    let chunks =
        says(&None, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nall is\r\n5\r\n well\r\n0\r\n\r\n");
    let health = says(&None, "HTTP/1.1 200 OK\r\n\r\n{\"db\": {\"state\": \"up\", \"lag\": 1}, \"on\": true}");
    let created = says(&None, "HTTP/1.1 201 Created\r\n\r\n");
    let cases = vec![
        (web(page, |check| check.expect_body = contains("is well")), PATIENCE, Ok("HTTP 200 OK: all is well")),
        (web(chunks, |check| check.expect_body = contains("is well")), PATIENCE, Ok("HTTP 200 OK: all is well")),
        (
            web(page, |check| check.expect_body = contains("ill")),
            PATIENCE,
            Err("HTTP 200 OK, but its body is not one with \"ill\" within it"),
        ),
        (
            web(page, |check| check.expect_body = Some(Match::Regex("^all .* well$".into()))),
            PATIENCE,
            Ok("HTTP 200 OK: all is well"),
        ),
        (
            web(page, |check| {
                check.expect_headers = vec![("content-type".into(), Some(Match::Prefix(b"text/".to_vec())))]
            }),
            PATIENCE,
            Ok("HTTP 200 OK: all is well"),
        ),
        (
            web(page, |check| check.expect_headers = vec![("content-type".into(), contains("json"))]),
            PATIENCE,
            Err("HTTP 200 OK, but its header content-type is \"text/html\", not \"json\" within it"),
        ),
        (
            web(page, |check| check.expect_headers = vec![("x-cache".into(), None)]),
            PATIENCE,
            Err("HTTP 200 OK, but it has no header x-cache"),
        ),
        (web(health, |check| check.expect_json = json("/db/state", "\"up\"")), PATIENCE, Ok("HTTP 200 OK: …")),
        (web(health, |check| check.expect_json = json("/db/lag", "1.0")), PATIENCE, Ok("HTTP 200 OK: …")),
        (web(health, |check| check.expect_json = json("/on", "true")), PATIENCE, Ok("HTTP 200 OK: …")),
        (
            web(health, |check| check.expect_json = json("/db/state", "\"down\"")),
            PATIENCE,
            Err("HTTP 200 OK, but /db/state is \"up\", not \"down\""),
        ),
        (
            web(health, |check| check.expect_json = json("/cache", "1")),
            PATIENCE,
            Err("HTTP 200 OK, but there is no /cache in its body"),
        ),
        (
            web(page, |check| check.expect_json = json("", "1")),
            PATIENCE,
            Err("HTTP 200 OK, but its body is no JSON: expected value at line 1 column 1"),
        ),
        (web(created, |check| check.status = vec![(200, 200), (201, 201)]), PATIENCE, Ok("HTTP 201 Created")),
        (web(created, |check| check.status = vec![(200, 200), (204, 204)]), PATIENCE, Err("HTTP 201 Created")),
    ];
    expect(&None, cases);
}

/// A server that answers by what it is asked.
fn site(answer: fn(&str) -> &'static str) -> SocketAddr {
    listen(None, move |listener| {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accept works");
            let mut asked = vec![0; 4096];
            let len = stream.read(&mut asked).unwrap_or(0);
            let _ = stream.write_all(answer(&String::from_utf8_lossy(&asked[..len])).as_bytes());
        }
    })
}

#[test]
fn the_request_is_what_the_check_says() {
    let address = site(|asked| {
        let right = asked.starts_with("POST /login HTTP/1.1\r\n")
            && asked.contains("\r\nhost: shop.example\r\n")
            && asked.ends_with("\r\n\r\nuser=probe");
        if right { "HTTP/1.1 200 OK\r\n\r\n" } else { "HTTP/1.1 400 Bad Request\r\n\r\n" }
    });
    let right = |check: &mut HttpCheck| {
        (check.method, check.path, check.body) = ("POST".into(), "/login".into(), "user=probe".into());
        check.headers = vec![("host".into(), "shop.example".into())];
    };
    let cases = vec![
        (web(address, right), PATIENCE, Ok("HTTP 200 OK")),
        (web(address, |_| {}), PATIENCE, Err("HTTP 400 Bad Request")),
    ];
    expect(&None, cases);
}

#[test]
fn redirects_are_followed_if_the_check_says_so() {
    let address = site(|asked| match asked.split(' ').nth(1) {
        Some("/") => "HTTP/1.1 302 Found\r\nLocation: /a\r\n\r\n",
        Some("/a") => "HTTP/1.1 307 Temporary Redirect\r\nLocation: b?x=1\r\n\r\n",
        Some("/b?x=1") => "HTTP/1.1 200 OK\r\n\r\nthere",
        Some("/loop") => "HTTP/1.1 301 Moved\r\nLocation: /loop\r\n\r\n",
        Some("/away") => "HTTP/1.1 301 Moved\r\nLocation: http://elsewhere.example/\r\n\r\n",
        _ => "HTTP/1.1 404 Not Found\r\n\r\n",
    });
    let from = |path: &str, redirects: u8| {
        web(address, |check| {
            check.path = path.into();
            (check.redirects, check.status) = (redirects, vec![(200, 200)]);
        })
    };
    let looped = format!("redirects in a loop: {address}/loop → {address}/loop");
    let many = format!("more than 1 redirects: {address}/ → {address}/a → {address}/b?x=1");
    let cases = vec![
        (from("/", 0), PATIENCE, Err("HTTP 302 Found")),
        (from("/", 2), PATIENCE, Ok("HTTP 200 OK: there")),
        (from("/", 1), PATIENCE, Err(many.as_str())),
        (from("/loop", 5), PATIENCE, Err(looped.as_str())),
        (from("/away", 5), PATIENCE, Err("redirects to http://elsewhere.example/; names are not looked up…")),
    ];
    expect(&None, cases);
}

/// An HTTPS server whose certificate is for "shop.example" and 127.0.0.1, and a file with its CA.
fn https(directory: &Path, name: &str, change: impl FnOnce(&mut CertificateParams)) -> (SocketAddr, PathBuf) {
    let mut authority = CertificateParams::new(Vec::new()).expect("no name");
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().expect("a key");
    let ca = authority.self_signed(&authority_key).expect("a certificate");
    let path = directory.join(format!("{name}.pem"));
    std::fs::write(&path, ca.pem()).expect("it is ours");
    let mut own = CertificateParams::new(vec!["shop.example".into(), "127.0.0.1".into()]).expect("names");
    change(&mut own);
    let key = KeyPair::generate().expect("a key");
    let own = own.signed_by(&key, &Issuer::new(authority, authority_key)).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_no_client_auth()
        .with_single_cert(vec![own.der().clone()], key.serialize_der().try_into().expect("a key"))
        .expect("it fits");
    let config = Arc::new(config);
    let address = listen(None, move |listener| {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accept works");
            let mut session = rustls::ServerConnection::new(Arc::clone(&config)).expect("a session");
            let mut tls = rustls::Stream::new(&mut session, &mut stream);
            if tls.read(&mut [0; 4096]).is_ok() {
                let _ = tls.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret");
            }
        }
    });
    (address, path)
}

#[test]
fn https_says_what_is_wrong_with_a_certificate() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (good, ca) = https(directory.path(), "good", |_| {});
    let (expired, old) = https(directory.path(), "expired", |own| own.not_after = rcgen::date_time_ymd(2024, 1, 31));
    let (early, new) = https(directory.path(), "early", |own| own.not_before = rcgen::date_time_ymd(4000, 1, 1));
    let plain = listen(None, |listener| {
        for stream in listener.incoming() {
            let _ = stream.expect("accept works").write_all(b"220 this is no TLS\r\n");
        }
    });
    let over = |address, name: &str, trust| web(address, |check| check.tls = Some(Tls { name: name.into(), trust }));
    let by = |path: &PathBuf| Trust::Ca(path.clone());
    let (strange, missing) = (by(&old), directory.path().join("none.pem"));
    let unknown = format!("the server's certificate is signed by no CA in {}", old.display());
    let unread = format!("cannot use the CAs in {}: …", missing.display());
    let (far, name) = ("the server's certificate is not valid yet, only from 4000-01-01T00:00:00Z", "shop.example");
    let cases = vec![
        (over(good, name, by(&ca)), PATIENCE, Ok("HTTP 200 OK: secret")),
        (over(good, "127.0.0.1", by(&ca)), PATIENCE, Ok("HTTP 200 OK: secret")),
        (
            over(good, "other.example", by(&ca)),
            PATIENCE,
            Err("the server's certificate is not for other.example, but for …"),
        ),
        (over(good, name, strange), PATIENCE, Err(unknown.as_str())),
        (over(good, name, by(&missing)), PATIENCE, Err(unread.as_str())),
        (over(good, "other.example", Trust::Anyone), PATIENCE, Ok("HTTP 200 OK: secret")),
        (over(expired, name, by(&old)), PATIENCE, Err("the server's certificate has expired, at 2024-01-31T00:00:00Z")),
        (over(expired, name, Trust::Anyone), PATIENCE, Ok("HTTP 200 OK: secret")),
        (over(early, name, by(&new)), PATIENCE, Err(far)),
        (over(plain, name, Trust::Anyone), PATIENCE, Err("no TLS: …")),
        (over(silent(&None), name, Trust::Anyone), SHORT, Err("no answer within 300 ms")),
        (over(refused(&None), name, Trust::Anyone), PATIENCE, Err("connection refused")),
    ];
    expect(&None, cases);
}

fn step(name: &str, check: Check, max_latency: Option<Duration>) -> Step {
    Step { name: name.into(), check: Arc::new(check), max_latency }
}

#[test]
fn a_plan_names_the_step_that_fails() {
    let page = says(&None, "HTTP/1.1 200 OK\r\n\r\nwell");
    let slow = http(&None, |stream| {
        thread::sleep(Duration::from_millis(60));
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    });
    let echo = datagrams(&None, b"echo");
    let port = || step("port", Check::Tcp { address: page }, None);
    let dns = |expected: &str| step("dns", Check::Udp(exchange(echo, b"q", prefix(expected))), None);
    let shop = || step("shop", web(page, |check| check.expect_body = contains("well")), None);
    let plan = |steps: Vec<Step>, timeout| Check::Plan { steps, timeout };
    let never = step("never", Check::Tcp { address: silent(&None) }, None);
    let late = step("late", web(slow, |_| {}), Some(Duration::from_millis(20)));
    let cases = vec![
        (plan(vec![port(), dns("q"), shop()], PATIENCE), SHORT, Ok("3 steps, the last: HTTP 200 OK: well")),
        (
            plan(vec![port(), dns("a"), never], PATIENCE),
            SHORT,
            Err("step dns: answered \"q\", not \"a\" at its beginning"),
        ),
        (
            plan(vec![port(), step("mute", http_check(silent(&None)), None), shop()], SHORT),
            PATIENCE,
            Err("step mute: no answer within 300 ms"),
        ),
        (plan(vec![shop(), late], PATIENCE), PATIENCE, Err("step late: took …")),
        (
            plan(vec![step("gone", Check::Tcp { address: refused(&None) }, None)], PATIENCE),
            PATIENCE,
            Err("step gone: connection refused"),
        ),
    ];
    expect(&None, cases);
}

/// Waits until somebody hangs up, after having said so much.
fn begins(netns: &Option<PathBuf>, words: &'static str) -> SocketAddr {
    http(netns, move |stream| {
        stream.write_all(words.as_bytes()).expect("the probe reads");
        let _ = stream.read(&mut [0]);
    })
}

#[test]
fn silent_is_only_who_says_nothing_at_all() {
    let mute = silent(&None);
    let plan = |steps: Vec<Step>| Check::Plan { steps, timeout: SHORT };
    let port = || step("port", Check::Tcp { address: mute }, None);
    let asked = || step("asked", http_check(mute), None);
    let late = step("late", http_check(begins(&None, "HTTP/1.1 200 OK\r\n")), Some(Duration::ZERO));
    let body = |check: &mut HttpCheck| check.expect_body = contains("well");
    let cases = [
        (Check::Tcp { address: deaf(&None) }, true),
        (Check::Tcp { address: refused(&None) }, false),
        (http_check(deaf(&None)), true),
        (http_check(mute), true),
        (http_check(says(&None, "")), false),
        (http_check(says(&None, "HTTP/1.1 503 X\r\n\r\n")), false),
        (http_check(begins(&None, "HTTP/1")), false),
        (web(begins(&None, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nwe"), body), false),
        (web(mute, |check| check.tls = Some(Tls { name: "localhost".into(), trust: Trust::Anyone })), true),
        (grpc_check(mute, ""), true),
        (grpc_check(refused(&None), ""), false),
        (Check::Udp(exchange(datagrams(&None, b""), b"x", None)), true),
        (Check::Udp(exchange(datagrams(&None, b"no"), b"x", prefix("yes"))), false),
        (Check::Udp(exchange(closed(), b"x", None)), false),
        (Check::Talk(exchange(mute, b"", prefix("220 "))), true),
        (Check::Talk(exchange(begins(&None, "22"), b"\r\n\r\n", prefix("220 "))), false),
        (plan(vec![asked()]), true),
        (plan(vec![port(), asked()]), false),
        (plan(vec![late]), false),
    ];
    let (prober, mut replies) = prober(64);
    for (id, (check, _)) in (0..).zip(&cases) {
        prober.start(request(id, check.clone(), &None, SHORT)).expect("there is room");
    }
    for _ in &cases {
        let reply = replies.blocking_recv().expect("the prober lives");
        let (check, silent) = &cases[reply.id.0 as usize];
        assert_eq!((reply.sign.is_right(), reply.sign.is_silent()), (false, *silent), "{}: {reply:?}", check.target());
    }
}

#[test]
fn what_is_an_error_outright_and_what_is_only_not_right() {
    let down = says(&None, "HTTP/1.1 503 Service Unavailable\r\n\r\n");
    let page = says(&None, "HTTP/1.1 200 OK\r\n\r\nwell");
    let health = grpc(&None, true);
    let nobody = refused(&None);
    let away = listen(None, move |listener| {
        for stream in listener.incoming() {
            let mut stream = stream.expect("accept works");
            let _ = stream.read(&mut [0; 4096]);
            let _ = write!(stream, "HTTP/1.1 302 Found\r\nLocation: http://{nobody}/\r\n\r\n");
        }
    });
    let plan = |check: Check| Check::Plan { steps: vec![step("it", check, None)], timeout: PATIENCE };
    let cases = [
        (Check::Tcp { address: nobody }, PATIENCE, true),
        (http_check(nobody), PATIENCE, true),
        (Check::Udp(exchange(closed(), b"q", None)), PATIENCE, true),
        (http_check(down), PATIENCE, true),
        (web(away, |check| check.redirects = 1), PATIENCE, true),
        (grpc_check(health, "bad"), PATIENCE, true),
        (plan(http_check(down)), PATIENCE, true),
        (plan(Check::Tcp { address: nobody }), PATIENCE, true),
        (web(page, |check| check.status = vec![(404, 404)]), PATIENCE, false),
        (web(page, |check| check.expect_body = contains("ill")), PATIENCE, false),
        (grpc_check(health, "other"), PATIENCE, false),
        (Check::Udp(exchange(datagrams(&None, b"echo"), b"q", prefix("a"))), PATIENCE, false),
        (Check::Tcp { address: deaf(&None) }, SHORT, false),
        (plan(web(page, |check| check.expect_body = contains("ill"))), PATIENCE, false),
    ];
    let (prober, mut replies) = prober(64);
    for (id, (check, timeout, _)) in (0..).zip(&cases) {
        prober.start(request(id, check.clone(), &None, *timeout)).expect("there is room");
    }
    for _ in &cases {
        let reply = replies.blocking_recv().expect("the prober lives");
        let (check, _, outright) = &cases[reply.id.0 as usize];
        assert_eq!((reply.sign.is_right(), reply.sign.is_outright()), (false, *outright), "{check:?}: {reply:?}");
    }
}

#[test]
fn an_answer_that_takes_too_long_is_wrong() {
    let slow = http(&None, |stream| {
        thread::sleep(Duration::from_millis(60));
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    });
    let (prober, mut replies) = prober(4);
    let mut answered = |max_latency| {
        let mut request = request(0, http_check(slow), &None, PATIENCE);
        request.max_latency = Some(max_latency);
        prober.start(request).expect("there is room");
        replies.blocking_recv().expect("the prober lives")
    };
    let late = answered(Duration::from_millis(20));
    assert!(!late.sign.is_right() && late.answer.ends_with("ms, more than 20ms: HTTP 200 OK"), "{late:?}");
    assert!(answered(PATIENCE).sign.is_right());
}
