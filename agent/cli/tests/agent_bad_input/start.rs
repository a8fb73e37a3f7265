//! `ringmesh agent` that cannot start.

use std::{
    fs,
    net::{TcpListener, UdpSocket},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
};

use nix::unistd::Uid;

use crate::support::{NOBODY, Site, at, expect_good, expect_refused, ringmesh};

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("our own file");
}

#[test]
fn a_configuration_that_is_missing_or_wrong() {
    let site = Site::new("h1");
    let nowhere = site.text_path("nowhere.toml");
    let missing = ["agent", "--config", &nowhere];
    expect_refused(ringmesh(&missing), 1, &[&nowhere, "No such file", "--config", "ringmesh init"]);

    let config = site.config();
    let line = |line: usize| format!("{config}:{line}: ");
    let socket = format!("[api]\nsocket = \"{}\"", site.text_path("run/agent.sock"));
    let port = format!("port = {}", site.uplinks[0].port());
    let cases: [(&str, &str, &[&str]); 12] = [
        (&port, "prot = 7400", &[&line(6), "unknown field `prot`", "port"]),
        ("[api]", "[apis]", &["unknown field `apis`", "api"]),
        (&port, "port = 70000", &[&line(6), "70000", "u16"]),
        (&port, "port = 0", &["uplink.a.port", "1 to 65535"]),
        ("127.0.0.1\"\nport", "localhost\"\nport", &[&line(5), "IP address"]),
        ("address = \"127.0.0.1\"", "address = \"0.0.0.0\"", &["uplink.a.address", "no address of one interface"]),
        ("name = \"h1\"", "name = \"Host 1\"", &["host.name", "Host 1", "a-z, 0-9"]),
        ("[api]", "[mesh]\nforget_after = \"59m\"\n[api]", &["mesh.forget_after", "is not within 1h to 10000h"]),
        ("[api]", "[mesh]\nconnection_cache = 7\n[api]", &["mesh.connection_cache", "7 is not within 8 to 4096"]),
        ("[api]", "[mesh]\nmode = \"cabled\"\n[api]", &["mesh.position", "required"]),
        ("[api]", "[log]\nlevel = \"loud\"\n[api]", &["log.level", "loud", "use error, warn, info"]),
        (&socket, "[api\n", &[&line(10)]),
    ];
    for (from, to, words) in cases {
        site.change(from, to);
        site.refuses(&[words, &[&config]].concat());
        let check = ["agent", "--check", "--config", &config];
        expect_refused(ringmesh(&check), 1, &[words, &[&config]].concat());
    }

    // Without a socket nothing of it was made.
    assert!(!site.path("state").exists() && !site.path("run").exists());
    site.configure(&site.text());
    expect_good(ringmesh(&["agent", "--check", "--config", &config]));
    fs::write(site.path("agent.toml"), [0xff, 0xfe, 0]).expect("the test may write there");
    site.refuses(&[&config, "UTF-8"]);
    fs::remove_file(site.path("agent.toml")).expect("it is there");
    fs::create_dir(site.path("agent.toml")).expect("nothing is there");
    site.refuses(&[&config, "directory"]);
}

#[test]
fn an_identity_that_is_missing_or_damaged() {
    let site = Site::new("h1");
    site.refuses(&["no identity", &site.text_path("state/identity"), "ringmesh init", "ringmesh join TOKEN"]);

    let site = Site::init("h1");
    let key = site.identity("host.key");
    let path = key.display().to_string();
    mode(&key, 0o644);
    site.refuses(&[&path, "open to others (mode 0644)", "chmod 600"]);
    mode(&key, 0o600);

    let good = fs::read(&key).expect("our own file");
    fs::write(&key, &good[..good.len() / 2]).expect("our own file");
    site.refuses(&[&path, "no whole private key", "restore it from a backup"]);
    fs::copy(site.identity("operator.key"), &key).expect("our own files");
    site.refuses(&[&path, "is not the key of host.pem", "restore it"]);
    fs::remove_file(&key).expect("our own file");
    site.refuses(&[&path, "cannot read", "No such file"]);
    fs::write(&key, &good).expect("our own file");
    mode(&key, 0o600);

    let other = Site::init("h1");
    for (file, words) in [
        ("host.pem", &["host.pem", "cluster.toml says", "restore it"][..]),
        ("ca.pem", &["host.pem", "not signed by a CA in ca.pem"]),
        ("ca.key", &["ca.key", "is not the key of a CA"]),
        ("cluster.toml", &["host.pem", "cluster.toml says"]),
    ] {
        let good = fs::read(site.identity(file)).expect("our own file");
        fs::copy(other.identity(file), site.identity(file)).expect("our own files");
        site.refuses(words);
        fs::write(site.identity(file), "garbage").expect("our own file");
        site.refuses(&[file, "restore it"]);
        fs::write(site.identity(file), good).expect("our own file");
    }

    let state = site.path("state");
    for (file, words) in [
        ("generation", &["generation", "holds no number", "remove it"][..]),
        ("tokens.json", &["tokens.json", "is not a list of tokens", "move it away"]),
        ("peers.json", &["peers.json"]),
    ] {
        let good = fs::read(state.join(file)).ok();
        fs::write(state.join(file), "garbage").expect("our own directory");
        mode(&state.join(file), 0o600);
        site.refuses(words);
        match good {
            Some(good) => fs::write(state.join(file), good).expect("our own file"),
            None => fs::remove_file(state.join(file)).expect("our own file"),
        }
    }

    site.change("name = \"h1\"", "name = \"h2\"");
    site.refuses(&["host.name is \"h2\"", "of \"h1\"", &site.config(), "set the name back"]);
    // All is as it was.
    site.configure(&site.text());
    assert!(site.start().runs());
}

#[test]
fn an_address_that_is_not_ours_or_a_port_that_is_taken() {
    let site = Site::init("h1");
    site.change("address = \"127.0.0.1\"", "address = \"203.0.113.1\"");
    site.refuses(&["uplink a", "203.0.113.1", "not one of this host's", "ip address"]);
    site.change("address = \"127.0.0.2\"", "address = \"203.0.113.1\"");
    site.refuses(&["uplink b", "203.0.113.1"]);

    site.configure(&site.text());
    let taken = UdpSocket::bind(site.uplinks[1]).expect("the port is free");
    site.refuses(&["uplink b", &site.uplinks[1].to_string(), "in use", "another agent"]);
    drop(taken);
    let taken = TcpListener::bind(site.listen).expect("the port is free");
    site.refuses(&[&site.listen.to_string(), "API", "in use", "api.listen"]);
    drop(taken);
    site.change(&site.listen.to_string(), "203.0.113.1:7443");
    site.refuses(&["203.0.113.1:7443", "API", "api.listen"]);
}

#[test]
fn a_socket_that_cannot_be_made_or_is_served_already() {
    let site = Site::init("h1");
    let mut first = site.start();

    let second = Site::init("h2");
    let ours = second.text_path("run/agent.sock");
    let theirs = site.text_path("run/agent.sock");
    second.change(&ours, &theirs);
    second.refuses(&["another agent serves", &theirs, "stop it", "api.socket"]);
    expect_good(site.ask(&["host", "list"]));

    fs::write(second.path("file"), "no directory").expect("our own directory");
    second.change(&ours, &second.text_path("file/agent.sock"));
    second.refuses(&["file/agent.sock", "directory", "check"]);
    // sun_path has 108 bytes.
    second.change(&ours, &second.text_path(&"x".repeat(120)));
    second.refuses(&["xxx", "cannot make the API's socket"]);
    // A file that is no socket is not ours to remove.
    second.change(&ours, &second.text_path("file"));
    second.refuses(&[&second.text_path("file"), "is no socket", "api.socket"]);
    assert_eq!(fs::read(second.path("file")).expect("it is left alone"), b"no directory");

    // The same agent twice.
    site.refuses(&["uplink a", "in use", "another agent"]);
    assert!(first.runs());
    // One that ended without a goodbye leaves a socket, which is replaced.
    drop(first);
    drop(std::os::unix::net::UnixListener::bind(site.socket()).expect("the agent took its socket with it"));
    let mut first = site.start();
    expect_good(site.ask(&["host", "list"]));
    assert!(first.runs());
}

#[test]
fn a_user_without_privilege() {
    let site = Site::init("h1");
    site.open_to_all();
    // The build may lie where others cannot go.
    let program = site.path("ringmesh");
    fs::copy(env!("CARGO_BIN_EXE_ringmesh"), &program).expect("room for a copy");
    let as_nobody = || {
        let config = site.config();
        let mut command = at(&program, &["agent", "--config", &config]);
        if Uid::effective().is_root() {
            command.uid(NOBODY).gid(NOBODY);
        } else {
            eprintln!("not root: this user stands for one without privilege");
        }
        command
    };
    let closed = if Uid::effective().is_root() { 0o700 } else { 0 };
    mode(&site.path("state"), closed);
    let said = expect_refused(as_nobody(), 1, &["state/identity", "Permission denied", "root"]);
    assert!(!said.contains("ringmesh init"), "it has an identity: {said}");
    mode(&site.path("agent.toml"), if closed == 0 { 0 } else { 0o600 });
    expect_refused(as_nobody(), 1, &["cannot read configuration", "agent.toml", "Permission denied"]);
}
