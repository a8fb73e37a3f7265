//! Three zones of three hosts, with real agents: any host answers for all, and a zone that is gone is said to be.

use std::process::{Command, Output};

use ringmesh_agentd::lab::{Fault, wait};
use ringmesh_proto::v1::{self, event::Severity, zone::State};

use crate::common::{BINARY, Lab, Traces};

const ALL: [&str; 9] = ["h1", "h2", "h3", "h4", "h5", "h6", "h7", "h8", "h9"];

/// The hosts of z2; all three are its delegates.
const SECOND: [&str; 3] = ["h2", "h5", "h8"];

const OTHERS: [&str; 6] = ["h1", "h3", "h4", "h6", "h7", "h9"];

#[test]
#[ignore = "needs root"]
fn nine_hosts_in_three_zones() {
    let before = Traces::of("e2e-zones");
    let lab = Lab::up_in_zones("e2e-zones", 9, 1, 3);
    every_host_knows_all_zones(&lab);
    any_host_answers_for_all(&lab);
    a_fault_in_one_zone_is_told_in_all(&lab);
    a_zone_dies_and_comes_back(&lab);
    a_tenth_host_joins_its_zone_through_another(&lab);
    drop(lab);
    assert_eq!(Traces::of("e2e-zones"), before);
}

fn every_host_knows_all_zones(lab: &Lab) {
    lab.until("every host knows all zones", &ALL, |_, seen: &wait::Seen<v1::Zone>| {
        let well = |zone: &v1::Zone| {
            zone.state() == State::Reachable && (zone.alive, zone.hosts) == (3, 3) && zone.delegates.len() == 3
        };
        if seen.len() == 3 && seen.values().all(well) { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}

fn any_host_answers_for_all(lab: &Lab) {
    for host in ["h1", "h5", "h9"] {
        let names = |args: &[&str]| -> Vec<String> {
            let listed = json(&asking(lab, host, args));
            let listed = listed.as_array().expect("a list").iter();
            listed.map(|object| object["name"].as_str().expect("a name").to_owned()).collect()
        };
        assert_eq!(names(&["host", "list"]), ALL, "asked {host}");
        assert_eq!(names(&["host", "list", "--zone", "z2"]), SECOND);
        let containers: Vec<String> = ALL.iter().map(|host| format!("{host}-c1")).collect();
        assert_eq!(names(&["container", "list"]), containers);
        assert_eq!(names(&["container", "list", "--zone", "z3"]), ["h3-c1", "h6-c1", "h9-c1"]);
        assert_eq!(names(&["service", "list", "--on", "h8"]), ["web"]);
        assert_eq!(json(&asking(lab, host, &["host", "show", "h2"]))["zone"], "z2");
        let unknown = asking(lab, host, &["host", "list", "--zone", "z4"]);
        assert_eq!(unknown.status.code(), Some(4), "{unknown:?}");
    }
}

fn a_fault_in_one_zone_is_told_in_all(lab: &Lab) {
    let past = lab.past(&ALL);
    let (host, container) = ("h5".to_owned(), "h5-c1".to_owned());
    lab.fault(&Fault::KillService { host: host.clone(), container: container.clone() });
    let told = lab.until_event("a critical service is told in all zones", &ALL, &past, |event| {
        event.kind == "service-verdict" && event.severity() == Severity::Critical
    });
    assert!(told.iter().all(|event| event.zone == "z2" && event.host == "h5" && event.id == told[0].id), "{told:?}");
    lab.fault(&Fault::StartService { host, container });
    lab.until("and is well in the counts of all", &ALL, |_, seen: &wait::Seen<v1::Zone>| {
        let passing = seen.get("z2").and_then(|zone| zone.digest).map(|digest| digest.passing);
        if passing == Some(3) { Ok(()) } else { Err(format!("{passing:?}")) }
    });
}

fn a_zone_dies_and_comes_back(lab: &Lab) {
    let of = |seen: &wait::Seen<v1::Zone>| seen.get("z2").map(|zone| zone.state());
    for host in SECOND {
        lab.fault(&Fault::Kill { host: host.into() });
    }
    lab.until("a zone of which nothing comes is unreachable", &OTHERS, |_, seen: &wait::Seen<v1::Zone>| {
        if of(seen) == Some(State::Unreachable) { Ok(()) } else { Err(format!("{:?}", of(seen))) }
    });
    let listed = asking(lab, "h1", &["service", "list"]);
    assert_eq!(json(&listed).as_array().expect("a list").len(), 6);
    let said = String::from_utf8_lossy(&listed.stderr);
    assert!(said.contains("zone z2 did not answer") && said.contains("its services are missing"), "{said}");
    for host in SECOND {
        lab.fault(&Fault::Start { host: host.into() });
    }
    lab.until("it comes back by itself", &ALL, |_, seen: &wait::Seen<v1::Zone>| {
        let alive = seen.get("z2").map(|zone| zone.alive);
        if (of(seen), alive) == (Some(State::Reachable), Some(3)) { Ok(()) } else { Err(format!("{alive:?}")) }
    });
}

/// The tenth host is of z1, and its token of h1; that is its own zone, which the eleventh's, z2, is not.
fn a_tenth_host_joins_its_zone_through_another(lab: &Lab) {
    lab.add_host();
    let eleventh = lab.add_host();
    let listed = json(&asking(lab, &eleventh.name, &["host", "list", "--zone", "z2"]));
    assert_eq!(listed.as_array().expect("a list").len(), 4, "{listed}");
}

fn asking(lab: &Lab, host: &str, args: &[&str]) -> Output {
    let status = lab.status();
    let api = &status.hosts.iter().find(|status| status.name == host).expect("a host of the lab").api;
    let mut command = Command::new(BINARY);
    command.args(args).args(["-o", "json", "--host", api]).env_remove("RINGMESH_HOST");
    command.output().expect("the program under test")
}

fn json(output: &Output) -> serde_json::Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("one JSON document")
}
