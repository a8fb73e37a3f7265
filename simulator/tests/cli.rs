//! The program as scripts use it: what it prints and how it ends.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;

fn sim(args: &[&str], dir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringmesh-sim")).args(args).current_dir(dir).output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[test]
fn run_prints_what_scripts_expect() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["run", "--hosts", "6", "--for", "40s", "--seed", "4", "-o", "json"];
    let output = sim(&args, dir.path());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let report = json(&output);
    assert_eq!(report["hosts"], 6);
    assert_eq!(report["virtual_seconds"], 40.0);
    assert!(report["wall_seconds"].as_f64().unwrap() > 0.0 && report["events"].as_u64().unwrap() > 1000);
    assert_eq!(report["trace_hash"].as_str().unwrap().len(), 16);
    let oracles = report["oracles"].as_array().unwrap();
    assert_eq!(oracles.len(), 9);
    assert!(
        oracles.iter().all(|oracle| oracle["ok"] == true && oracle["detail"].is_string() && oracle["name"].is_string())
    );
    assert_eq!(json(&sim(&args, dir.path()))["trace_hash"], report["trace_hash"]);
    assert_eq!(json(&sim(&[&args[..], &["--wire"]].concat(), dir.path()))["trace_hash"], report["trace_hash"]);
}

#[test]
fn a_bad_scenario_is_refused_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let refuse = |text: &str| {
        fs::write(dir.path().join("s.toml"), text).unwrap();
        let output = sim(&["run", "s.toml"], dir.path());
        assert_eq!(output.status.code(), Some(2), "{text}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    for (text, line, what) in [
        ("hosts = 5\nhsots = 6\n", "line 2", "hsots"),
        ("hosts = 5\n\n[[fault]]\nat = \"1s\"\nkind = \"crash\"\nhosts = [\"h6\"]\n", "line 3", "there is no h6"),
        ("hosts = 5\n[[fault]]\nat = \"1\"\nkind = \"crash\"\nhosts = [\"h1\"]\n", "line 3", "span of time"),
        ("[[fault]]\nat = \"1s\"\nkind = \"crsh\"\n", "line 3", "crsh"),
        ("[[fault]]\nat = \"1s\"\nkind = \"pause\"\nhosts = [\"h1\"]\n", "line 1", "needs \"for\""),
        ("seed = 1\nhosts = 0\n", "line 2", "not within 1 to"),
        ("hosts = 2\n[link]\nloss = 2.0\n", "line 2", "no probability"),
        (
            "[[generate]]\nkind = \"join\"\nmean_up = \"1s\"\nmean_down = \"1s\"\nuntil = \"9s\"\n",
            "line 1",
            "[[fault]]",
        ),
        ("[oracles]\noff = [\"none\"]\n", "line 1", "there is no oracle"),
    ] {
        let error = refuse(text);
        assert!(error.contains(line) && error.contains(what), "{text}: {error}");
    }
    assert_eq!(sim(&["run", "nowhere.toml"], dir.path()).status.code(), Some(2));
    assert_eq!(sim(&["run", "--for", "soon"], dir.path()).status.code(), Some(2));
    assert_eq!(sim(&["replay", "s.toml"], dir.path()).status.code(), Some(2));
}

/// Two hosts that are left of five cannot tell whether the other three died or they themselves are cut off: they judge
/// nobody, and the oracle that counts the dead fails. Found, kept, replayed, shrunk.
#[test]
fn a_failure_is_kept_replayed_and_shrunk() {
    let dir = tempfile::tempdir().unwrap();
    let text = "hosts = 5\nduration = \"50s\"\n[[fault]]\nat = \"20s\"\nkind = \"power-off\"\nhosts = [\"h1\", \"h2\", \"h3\"]\n";
    fs::write(dir.path().join("s.toml"), text).unwrap();
    let found = sim(&["run", "s.toml", "--seed", "1", "--save", "known.json", "-o", "json"], dir.path());
    assert_eq!(found.status.code(), Some(1), "{found:?}");
    let known: Value = serde_json::from_slice(&fs::read(dir.path().join("known.json")).unwrap()).unwrap();
    let replayed = sim(&["replay", "known.json", "-o", "json"], dir.path());
    assert_eq!(replayed.status.code(), Some(1), "{replayed:?}");
    let failed = json(&replayed);
    let failed: Vec<_> = failed["oracles"].as_array().unwrap().iter().filter(|oracle| oracle["ok"] == false).collect();
    assert_eq!(failed[0]["name"], "detection");

    // Something beside it that does not matter.
    let mut longer = known;
    let faults = longer["scenario"]["fault"].as_array_mut().unwrap();
    faults.insert(0, serde_json::json!({ "at": "18s", "for": "1s", "kind": "sick", "hosts": ["h4"] }));
    faults.push(serde_json::json!({ "at": "24s", "for": "1s", "kind": "cut", "uplink": "a", "hosts": ["h5"] }));
    fs::write(dir.path().join("longer.json"), longer.to_string()).unwrap();
    let shrunk = sim(&["shrink", "longer.json", "--to", "small.json"], dir.path());
    assert_eq!(shrunk.status.code(), Some(0), "{shrunk:?}");
    let small: Value = serde_json::from_slice(&fs::read(dir.path().join("small.json")).unwrap()).unwrap();
    assert_eq!(small["oracle"], "detection");
    let faults = small["scenario"]["fault"].as_array().unwrap();
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert_eq!(faults[0]["kind"], "power-off");
    let replayed = sim(&["replay", "small.json"], dir.path());
    assert_eq!(replayed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&replayed.stderr).contains("the same run"), "{replayed:?}");
}

#[test]
fn a_sweep_runs_every_seed_once_and_the_example_holds() {
    let dir = tempfile::tempdir().unwrap();
    let output = sim(&["sweep", "--hosts", "5", "--for", "35s", "--seeds", "6", "-o", "json"], dir.path());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(json(&output)["runs"], 6);
    assert!(String::from_utf8_lossy(&output.stderr).contains("6 of 6 runs"), "plain lines without a terminal");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/example.toml");
    let output = sim(&["run", example.to_str().unwrap(), "--seed", "7", "--twice"], dir.path());
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}
