//! The architecture as a test: which crate may depend on which, what the pure crates pull in, and that each keeps the
//! lints and the licence of the workspace.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Command,
};

use cargo_metadata::{Metadata, MetadataCommand};

/// Who may depend on whom: `proto ← topology, routing, store ← node ← agentd, simulator`; cli on proto and agentd. What a
/// container's own member runs stands alone. A new crate is added here first.
const ALLOWED: [(&str, &[&str]); 9] = [
    ("ringmesh-proto", &[]),
    ("ringmesh-member", &[]),
    ("ringmesh-topology", &["ringmesh-proto"]),
    ("ringmesh-routing", &["ringmesh-proto"]),
    ("ringmesh-store", &["ringmesh-proto"]),
    (
        "ringmesh-node",
        &["ringmesh-proto", "ringmesh-member", "ringmesh-topology", "ringmesh-routing", "ringmesh-store"],
    ),
    (
        "ringmesh-agentd",
        &[
            "ringmesh-proto",
            "ringmesh-member",
            "ringmesh-topology",
            "ringmesh-routing",
            "ringmesh-store",
            "ringmesh-node",
        ],
    ),
    ("ringmesh-cli", &["ringmesh-proto", "ringmesh-agentd"]),
    (
        "ringmesh-simulator",
        &["ringmesh-proto", "ringmesh-topology", "ringmesh-routing", "ringmesh-store", "ringmesh-node"],
    ),
];

const PURE: [&str; 6] =
    ["ringmesh-proto", "ringmesh-member", "ringmesh-topology", "ringmesh-routing", "ringmesh-store", "ringmesh-node"];

/// Whose program has one file that cannot be safe Rust; the lints are the workspace's but for that, and the library's are not
/// even different there.
const PROGRAM: &str = "ringmesh-member";

/// What brings sockets, a runtime, a clock of its own or OS randomness.
const IMPURE: [&str; 20] = [
    "async-io",
    "async-std",
    "chrono",
    "getrandom",
    "hyper",
    "jiff",
    "mio",
    "netlink-sys",
    "nix",
    "polling",
    "quinn",
    "quinn-udp",
    "rtnetlink",
    "rustix",
    "smol",
    "socket2",
    "time",
    "tokio",
    "tonic",
    "tower",
];

#[test]
fn dependencies_run_one_way() {
    let workspace = workspace();
    let found: BTreeSet<&str> = workspace.packages.iter().map(|package| package.name.as_str()).collect();
    let known: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    assert_eq!(found, known, "a crate came or went: say in ALLOWED what it may depend on");

    let allowed = BTreeMap::from(ALLOWED);
    for package in &workspace.packages {
        // All kinds: a dev-dependency that points the wrong way is the first step of a cycle.
        let ours = package.dependencies.iter().map(|dependency| dependency.name.as_str());
        for dependency in ours.filter(|name| name.starts_with("ringmesh-")) {
            assert!(
                allowed[package.name.as_str()].contains(&dependency),
                "{} must not depend on {dependency}",
                package.name
            );
        }
    }
}

/// What a library brings and nothing calls. raft draws the time until an election by the generator of its rand; the machine
/// around it leaves that one value to draw, and sets its own (decision 0020).
const TOLERATED: [(&str, &str); 2] = [("ringmesh-store", "getrandom"), ("ringmesh-node", "getrandom")];

#[test]
fn pure_crates_pull_in_no_io() {
    for name in PURE {
        let mut impure = impure_dependencies(name);
        for (_, tolerated) in TOLERATED.iter().filter(|(of, _)| *of == name) {
            assert!(impure.remove(*tolerated), "{name} no longer pulls in {tolerated}: tolerate it no more");
        }
        assert!(impure.is_empty(), "{name} pulls in {impure:?}; see who does with `cargo tree -p {name} -i CRATE`");
    }
}

/// The test above can fail: the same look at the daemon finds what it must.
#[test]
fn the_daemon_is_seen_to_pull_in_io() {
    let impure = impure_dependencies("ringmesh-agentd");
    for name in ["mio", "quinn", "rtnetlink", "socket2", "tokio", "tonic"] {
        assert!(impure.contains(name), "{name} is not among {impure:?}");
    }
}

#[test]
fn every_crate_has_the_licence_and_the_lints_of_the_workspace() {
    let workspace = workspace();
    let root = read(workspace.workspace_root.join("Cargo.toml").as_std_path());
    let lints = root.split_once("[workspace.lints.rust]").and_then(|(_, rest)| rest.split_once("\n\n[profile"));
    let lints = format!("[lints.rust]{}", lints.expect("the lints stand before the profiles").0)
        .replace("unsafe_code = \"forbid\"", "unsafe_code = \"deny\"")
        .replace("[workspace.", "[");
    for package in &workspace.packages {
        assert_eq!(package.license.as_deref(), Some("Apache-2.0 OR MIT"), "{}", package.name);
        let manifest = read(package.manifest_path.as_std_path());
        let lints = if package.name.as_str() == PROGRAM { lints.as_str() } else { "[lints]\nworkspace = true" };
        assert!(manifest.contains(lints), "{} goes without the workspace's lints", package.name);
    }
    let library = read(workspace.workspace_root.join("agent/member/src/lib.rs").as_std_path());
    assert!(library.contains("\n#![forbid(unsafe_code)]\n"));
    for file in ["LICENSE-APACHE", "LICENSE-MIT"] {
        assert!(read(workspace.workspace_root.join(file).as_std_path()).len() > 1000, "{file} is whole");
    }
}

/// clippy reads the clippy.toml next to a crate's manifest and no other: without it, clocks and hash maps pass.
#[test]
fn every_pure_crate_links_to_the_lints_for_pure_crates() {
    let workspace = workspace();
    let pure = read(workspace.workspace_root.join("clippy-pure.toml").as_std_path());
    for package in workspace.packages.iter().filter(|package| PURE.contains(&package.name.as_str())) {
        assert_eq!(read(package.manifest_path.with_file_name("clippy.toml").as_std_path()), pure, "{}", package.name);
    }
}

fn workspace() -> Metadata {
    MetadataCommand::new().no_deps().exec().expect("cargo reads this workspace")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Names of [`IMPURE`] in the tree of a crate, with the features that this crate alone asks for: a build of the whole
/// workspace unifies features and would show those of the daemon.
fn impure_dependencies(package: &str) -> BTreeSet<String> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .args(["tree", "--offline", "--locked", "--edges", "normal", "--prefix", "none", "--package", package])
        .current_dir(workspace().workspace_root)
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).expect("cargo writes UTF-8");
    assert!(tree.starts_with(package), "cargo tree shows {package}: {tree}");
    let names = tree.lines().filter_map(|line| line.split_whitespace().next());
    names.filter(|name| IMPURE.contains(name)).map(str::to_owned).collect()
}
