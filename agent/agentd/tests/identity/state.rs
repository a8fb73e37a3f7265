//! What `init` writes, and what is refused when it is read.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use ringmesh_agentd::identity::{Identity, IdentityError, commands, seeds};

use crate::support::{FirstHost, init_options};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

#[test]
fn init_makes_closed_files_and_refuses_a_second_time() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let options = init_options(directory.path(), "h1");
    let outcome = commands::init(&options).expect("nothing is there yet");
    assert!(outcome.config_written && !outcome.has_uplink_b);
    let state = directory.path().join("state");
    let of = |name: &str| mode(&state.join("identity").join(name));
    assert_eq!([mode(&state), mode(&state.join("identity"))], [0o700; 2]);
    assert_eq!(["ca.key", "host.key", "operator.key"].map(of), [0o600; 3]);
    assert!(outcome.operator_certificate.is_file());
    assert_eq!(seeds::read(&state).expect("init wrote it"), []);

    let identity = Identity::load(&state).expect("our own files");
    assert_eq!((identity.cluster, identity.host, identity.name.as_str()), (outcome.cluster, outcome.host, "h1"));
    assert!(identity.is_authority());
    assert!(!format!("{identity:?}").contains("key"));

    let error = commands::init(&options).expect_err("it is there").to_string();
    assert!(error.contains("already has an identity") && error.contains("move that directory away"), "{error}");
    let same = Identity::load(&state).expect("our own files");
    assert_eq!((same.cluster, same.chain), (identity.cluster, identity.chain));
}

#[test]
fn a_host_without_identity_is_told_what_to_run() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let error = Identity::load(directory.path()).expect_err("there is none");
    assert!(matches!(error, IdentityError::Missing { .. }));
    assert!(error.to_string().contains("ringmesh init") && error.to_string().contains("ringmesh join"));
}

#[test]
fn keys_that_others_may_read_are_refused() {
    for name in ["ca.key", "host.key"] {
        let first = FirstHost::new("h1");
        let path = first.state_dir().join("identity").join(name);
        fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("it is ours");
        let error = Identity::load(&first.state_dir()).expect_err("others may read it").to_string();
        assert!(error.contains(name) && error.contains("0644") && error.contains("chmod 600"), "{error}");
    }
}

#[test]
fn damaged_and_mismatching_files_are_named() {
    let other = FirstHost::new("other");
    let read_other = |name: &str| fs::read(other.state_dir().join("identity").join(name)).expect("it is there");
    let half = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("it is text");
    type Change<'a> = &'a dyn Fn(&[u8]) -> Vec<u8>;
    let cases: [(&str, Change<'_>, &str); 14] = [
        ("host.pem", &half, "host.pem is not PEM, or was cut off"),
        ("host.key", &half, "host.key holds no whole private key"),
        ("ca.pem", &half, "ca.pem is not PEM, or was cut off"),
        ("ca.key", &half, "ca.key holds no whole private key"),
        ("ca.pem", &|_| Vec::new(), "ca.pem does not hold 1 to 8 certificates"),
        ("ca.pem", &|old| old.repeat(9), "ca.pem does not hold 1 to 8 certificates"),
        ("host.pem", &|_| vec![b'x'; 2 << 20], "host.pem is larger than"),
        ("host.pem", &|_| read_other("host.pem"), "host.pem is for "),
        ("host.pem", &|_| read_other("operator.pem"), "host.pem is for admin.admin."),
        ("host.key", &|_| read_other("host.key"), "host.key is not the key of host.pem"),
        ("ca.pem", &|_| read_other("ca.pem"), "host.pem was not signed by a CA in ca.pem"),
        ("ca.key", &|_| read_other("ca.key"), "ca.key is not the key of a CA in ca.pem"),
        ("cluster.toml", &half, "cluster.toml is malformed"),
        ("cluster.toml", &|old| text(old).replace("host_id = \"", "host_id = \"x").into(), "has a malformed host_id"),
    ];
    for (name, change, expected) in cases {
        let first = FirstHost::new("h1");
        let path = first.state_dir().join("identity").join(name);
        // Written over in place, which leaves the mode as it was.
        fs::write(&path, change(&fs::read(&path).expect("it is there"))).expect("it is ours");
        let error = Identity::load(&first.state_dir()).expect_err(expected).to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{expected}: {error}");
        fs::remove_file(&path).expect("it is ours");
        let result = Identity::load(&first.state_dir());
        // Only the CA's key may be absent.
        assert_eq!(result.is_ok(), name == "ca.key", "{name}");
    }
}

#[test]
fn a_file_of_the_first_versions_means_automatic_chords_and_a_malformed_rule_is_refused() {
    let first = FirstHost::new("h1");
    let path = first.state_dir().join("identity/cluster.toml");
    let text = fs::read_to_string(&path).expect("init wrote it");
    assert!(text.contains("chords = \"auto\"\n"), "{text}");
    fs::write(&path, text.replace("chords = \"auto\"\n", "")).expect("it is ours");
    assert_eq!(Identity::load(&first.state_dir()).expect("as before").chords.to_string(), "auto");
    fs::write(&path, text.replace("\"auto\"", "\"random:99\"")).expect("it is ours");
    let error = Identity::load(&first.state_dir()).expect_err("99 are too many").to_string();
    assert!(error.contains("cluster.toml") && error.contains("malformed chords"), "{error}");
}
