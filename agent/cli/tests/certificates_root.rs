//! Certificates in a lab that runs: the CA is replaced and a host thrown out, and nobody is suspected for it.

mod common;

use std::{
    process::{Command, Output},
    time::Duration,
};

use common::{BINARY, LONG, Lab, Traces};
use ringmesh_agentd::lab::{self, AgentState, Fault, wait};
use ringmesh_proto::v1::{self, GetCertificateRequest, certificates_client::CertificatesClient, host::State};

const ALL: [&str; 5] = ["h1", "h2", "h3", "h4", "h5"];
const REST: [&str; 4] = ["h1", "h2", "h3", "h4"];

/// Longer than it takes to suspect a host and to call it down.
const CALM: Duration = Duration::from_secs(8);

#[test]
#[ignore = "needs root"]
fn the_ca_is_replaced_and_a_host_revoked_while_all_runs() {
    let before = Traces::of("e2e-cert");
    let lab = Lab::up("e2e-cert", 5, 1);
    the_ca_is_replaced_and_the_old_one_goes(&lab);
    a_host_is_given_the_key(&lab);
    a_host_that_slept_comes_back_within_the_overlap(&lab);
    a_host_is_revoked(&lab);
    a_host_that_missed_it_all_is_told(&lab);
    drop(lab);
    assert_eq!(Traces::of("e2e-cert"), before);
}

fn the_ca_is_replaced_and_the_old_one_goes(lab: &Lab) {
    let past = lab.past(&ALL);
    let before = certificate(lab, "h3");
    assert_eq!((before.trust_version, before.authorities.len(), before.signers.len()), (0, 1, 1));
    let refused = ringmesh(lab, "h3", &["ca", "rotate"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(5) && text.contains("ask h1") && text.lines().count() == 1, "{text}");

    // Long enough to be seen, short enough to wait for.
    succeeds(&ringmesh(lab, "h1", &["ca", "rotate", "--overlap", "5s"]));
    until(lab, "every host has a certificate of the new CA", &ALL, |now| {
        now.authorities.last().is_some_and(|ca| ca.fingerprint == now.issuer) && now.trust_version >= 1
    });
    assert_ne!(certificate(lab, "h3").issuer, before.issuer);
    until(lab, "the old CA goes by itself", &ALL, |now| now.trust_version == 2 && now.authorities.len() == 1);
    lab.until_well("all are well", &ALL);
    lab.no_event(CALM, &ALL, &past, is_accusing);
    for host in ALL {
        let now = certificate(lab, host);
        assert!(now.problem.is_empty() && now.signers == ["h1"], "{now:?}");
    }
    let renewed = ringmesh(lab, "h2", &["cert", "renew", "-o", "json"]);
    succeeds(&renewed);
    let renewed: serde_json::Value = serde_json::from_slice(&renewed.stdout).expect("one JSON document");
    assert_eq!(renewed["serial"], certificate(lab, "h2").serial);
    // An operator's files on the first host follow.
    let newcomer = lab.add_host();
    lab.until_well("a host joins under the new CA", &["h1", "h2", "h3", "h4", "h5", "h6"]);
    succeeds(&ringmesh(lab, &newcomer.name, &["leave"]));
    lab.until_well("and leaves", &ALL);
}

fn a_host_is_given_the_key(lab: &Lab) {
    succeeds(&ringmesh(lab, "h1", &["ca", "share", "h2"]));
    until(lab, "all know who signs", &ALL, |now| now.signers == ["h1", "h2"]);
    succeeds(&ringmesh(lab, "h2", &["token", "create"]));
    assert_eq!(ringmesh(lab, "h1", &["ca", "share", "h9"]).status.code(), Some(4));
}

fn a_host_that_slept_comes_back_within_the_overlap(lab: &Lab) {
    lab.fault(&Fault::Kill { host: "h4".into() });
    assert_eq!(lab.host("h4").state, AgentState::Dead);
    succeeds(&ringmesh(lab, "h2", &["ca", "rotate"]));
    let awake = ["h1", "h2", "h3", "h5"];
    until(lab, "those that run renew", &awake, |now| {
        now.trust_version == 3 && now.issuer == now.authorities[1].fingerprint
    });
    let refused = ringmesh(lab, "h2", &["ca", "retire"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("h4"), "{refused:?}");
    lab.fault(&Fault::Start { host: "h4".into() });
    until(lab, "it renews, too", &["h4"], |now| now.trust_version == 3 && now.issuer == now.authorities[1].fingerprint);
    lab.until_well("all are well", &ALL);
    let past = lab.past(&ALL);
    let retired = || ringmesh(lab, "h2", &["ca", "retire"]).status.success();
    assert!(wait::until_true(LONG, retired), "all have renewed");
    until(lab, "only the new CA is trusted", &ALL, |now| now.authorities.len() == 1);
    lab.no_event(CALM, &ALL, &past, is_accusing);
}

fn a_host_is_revoked(lab: &Lab) {
    let past = lab.past(&REST);
    let containers = lab.containers("h5");
    let refused = ringmesh(lab, "h1", &["host", "revoke", "h5"]);
    assert_eq!(refused.status.code(), Some(5), "h2 alone has the new key: {refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("ask h2"), "{refused:?}");
    assert_eq!(ringmesh(lab, "h2", &["host", "revoke", "h9"]).status.code(), Some(4));
    succeeds(&ringmesh(lab, "h2", &["host", "revoke", "h5"]));
    lab.until("it is gone at all others", &REST, |_, seen: &wait::Seen<v1::Host>| {
        let state = seen.get("h5").map(v1::Host::state);
        if state == Some(State::Left) { Ok(()) } else { Err(format!("h5 {state:?}")) }
    });
    lab.until_event("that is told", &REST, &past, |event| event.kind == "host-revoked" && event.host == "h5");
    assert!(wait::until_true(LONG, || certificate(lab, "h5").problem.contains("revoked")), "it is told");
    assert_eq!(lab.containers("h5"), containers, "its containers run on");
    lab.until_well("the others are well", &REST);
    lab.no_event(CALM, &REST, &past, is_accusing);
    // It is written down: a host that restarts does not let it in either.
    lab.fault(&Fault::Kill { host: "h3".into() });
    lab.fault(&Fault::Start { host: "h3".into() });
    until(lab, "it knows the revocation", &["h3"], |now| now.revocations.iter().any(|revoked| revoked.host == "h5"));
    lab.until("and not the host", &["h3"], |_, seen: &wait::Seen<v1::Host>| {
        let well = REST.iter().all(|name| seen.get(*name).is_some_and(|host| host.state() == State::Alive));
        let state = seen.get("h5").map(v1::Host::state);
        if well && matches!(state, None | Some(State::Left)) { Ok(()) } else { Err(format!("h5 {state:?}")) }
    });
}

fn a_host_that_missed_it_all_is_told(lab: &Lab) {
    lab.fault(&Fault::Kill { host: "h4".into() });
    succeeds(&ringmesh(lab, "h2", &["ca", "rotate", "--overlap", "1s"]));
    let awake = ["h1", "h2", "h3"];
    until(lab, "those that run renew", &awake, |now| {
        now.issuer == now.authorities[now.authorities.len() - 1].fingerprint
    });
    succeeds(&ringmesh(lab, "h2", &["ca", "retire", "--force"]));
    until(lab, "only the new CA is trusted", &awake, |now| now.authorities.len() == 1);
    lab.fault(&Fault::Start { host: "h4".into() });
    let told = || {
        let problem = certificate(lab, "h4").problem;
        problem.contains("CA was changed while it was away") && problem.contains("ringmesh join")
    };
    assert!(wait::until_true(LONG, told), "{:?}", certificate(lab, "h4").problem);
}

fn is_accusing(event: &v1::Event) -> bool {
    matches!(event.kind.as_str(), "host-suspect" | "host-down" | "uplink-changed")
}

fn until(lab: &Lab, what: &str, hosts: &[&str], holds: impl Fn(&v1::Certificate) -> bool) {
    for host in hosts {
        let done = wait::until_true(LONG, || holds(&certificate(lab, host)));
        assert!(done, "{what}: {host} {:?}", certificate(lab, host));
    }
    eprintln!("         {what}");
}

fn certificate(lab: &Lab, host: &str) -> v1::Certificate {
    let api = lab.host(host).api;
    let asked = || {
        lab::block_on(async {
            CertificatesClient::new(lab::channel(&api)).get_certificate(GetCertificateRequest {}).await
        })
    };
    let mut answer = asked();
    // An agent that was started just now may not listen yet.
    wait::until_true(LONG, || {
        answer = asked();
        answer.is_ok()
    });
    answer.expect("it answers").into_inner()
}

fn ringmesh(lab: &Lab, host: &str, args: &[&str]) -> Output {
    let api = lab.host(host).api;
    Command::new(BINARY).args(["--host", &api]).args(args).output().expect("the program under test")
}

fn succeeds(output: &Output) {
    assert!(output.status.success(), "{output:?}");
}
