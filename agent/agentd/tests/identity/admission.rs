//! The issuing side by itself.

use std::{fs, sync::Arc, time::Duration};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use ringmesh_agentd::identity::{
    Identity, PeerIdentity, Role,
    admission::{Authority, AuthorityError, MAX_LIVE, MAX_TTL, check_zone},
};
use ringmesh_node::View;
use ringmesh_proto::{
    ClusterId, HostId, ZoneId,
    peer::{JoinRequest, refusal::Reason},
    token::Token,
    v1,
};
use rustls::pki_types::CertificateDer;

use crate::support::{FirstHost, HOUR, now, token};

fn request(token: &Token, name: &str, params: &CertificateParams) -> JoinRequest {
    let key = KeyPair::generate().expect("randomness");
    JoinRequest {
        token_id: token.id.to_vec().into(),
        token_secret: token.secret.to_vec().into(),
        name: name.into(),
        csr: params.serialize_request(&key).expect("a valid request").der().to_vec().into(),
        zone: String::new(),
    }
}

fn address() -> std::net::SocketAddr {
    ([127, 0, 0, 1], 7400).into()
}

#[test]
fn a_request_decides_nothing_but_its_key() {
    let first = FirstHost::new("h1");
    let mut authority = first.authority();
    let token = token(&mut authority, address());
    let stolen = PeerIdentity { cluster: first.identity.cluster, role: Role::Host(first.identity.host) };
    let mut params = CertificateParams::new(vec![stolen.dns_name()]).expect("a DNS name");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let response = authority.admit(&request(&token, "h2", &params), now(), |_| false, |_| false).expect("a good token");
    let certificate = CertificateDer::from(response.certificate.to_vec());
    let identity = PeerIdentity::from_certificate(&certificate).expect("a host's certificate");
    assert_eq!(identity.role, Role::Host(HostId::new(response.host)));
    assert_eq!(identity.cluster, ClusterId::new(response.cluster));
    assert_ne!(identity, stolen);
    // webpki takes no CA certificate as an end entity's.
    let anchors = [webpki::anchor_from_trusted_cert(&first.identity.authorities[0]).expect("our own CA")];
    let leaf = webpki::EndEntityCert::try_from(&certificate).expect("it is X.509");
    let time = rustls::pki_types::UnixTime::now();
    let usage = webpki::KeyUsage::client_auth();
    let algorithms = [webpki::ring::ECDSA_P256_SHA256];
    leaf.verify_for_usage(&algorithms, &anchors, &[], time, usage, None, None).expect("it is no CA");
}

#[test]
fn refusals_have_reasons_and_cost_no_use() {
    let first = FirstHost::new("h1");
    let mut authority = first.authority();
    let token = token(&mut authority, address());
    let good = request(&token, "h2", &CertificateParams::default());
    let mut forged = good.clone();
    forged.csr = forged.csr.iter().rev().copied().collect::<Vec<_>>().into();
    let cases = [
        (JoinRequest { token_secret: vec![0; 16].into(), ..good.clone() }, Reason::Token),
        (JoinRequest { token_id: Vec::new().into(), ..good.clone() }, Reason::Token),
        (JoinRequest { name: "H 2".into(), ..good.clone() }, Reason::Malformed),
        (JoinRequest { name: "h1".into(), ..good.clone() }, Reason::NameTaken),
        (JoinRequest { name: "taken".into(), ..good.clone() }, Reason::NameTaken),
        (forged, Reason::Malformed),
        (JoinRequest::default(), Reason::Token),
    ];
    for (request, reason) in cases {
        let refusal = authority.admit(&request, now(), |name| name == "taken", |_| false).expect_err("it is bad");
        assert_eq!(refusal.reason(), reason, "{}", refusal.text);
    }
    let refusal = authority.admit(&good, now(), |_| false, |_| true).expect_err("no id is free");
    assert_eq!(refusal.reason(), Reason::Busy);
    authority.admit(&good, now(), |_| false, |_| false).expect("the use is still there");
    let mut again = first.authority();
    let refusal = again.admit(&good, now(), |_| false, |_| false).expect_err("a restart does not give it back");
    assert_eq!(refusal.reason(), Reason::Token);
}

#[test]
fn tokens_have_bounds() {
    let first = FirstHost::new("h1");
    let mut authority = first.authority();
    let mut create = |ttl, uses, addresses| authority.create_token(ttl, uses, vec![address(); addresses], now());
    assert!(matches!(create(Duration::ZERO, 1, 1), Err(AuthorityError::Ttl(_))));
    assert!(matches!(create(MAX_TTL + Duration::from_secs(1), 1, 1), Err(AuthorityError::Ttl(_))));
    assert!(matches!(create(HOUR, 0, 1), Err(AuthorityError::Uses(0))));
    assert!(matches!(create(HOUR, 1001, 1), Err(AuthorityError::Uses(1001))));
    assert!(matches!(create(HOUR, 1, 0), Err(AuthorityError::Addresses(0))));
    assert!(matches!(create(HOUR, 1, 17), Err(AuthorityError::Addresses(17))));
    create(MAX_TTL, 1000, 16).expect("within all bounds");

    // As many as there may be, of which this host made one.
    let path = first.state_dir().join("tokens.json");
    let mut file: serde_json::Value =
        serde_json::from_slice(&fs::read(&path).expect("it was just written")).expect("it is JSON");
    let tokens = file["tokens"].as_array_mut().expect("a list");
    *tokens = vec![tokens[0].clone(); MAX_LIVE];
    fs::write(&path, file.to_string()).expect("it is ours");
    let mut authority = first.authority();
    let mut create = |ttl, uses, addresses| authority.create_token(ttl, uses, vec![address(); addresses], now());
    assert!(matches!(create(HOUR, 1, 1), Err(AuthorityError::TooMany)));
    let text = create(HOUR, 1, 1).expect_err("too many").to_string();
    assert!(text.contains("1000"), "{text}");
}

#[test]
fn a_host_without_the_key_is_no_authority() {
    let first = FirstHost::new("h1");
    fs::remove_file(first.state_dir().join("identity/ca.key")).expect("it is ours");
    let identity = Identity::load(&first.state_dir()).expect("a host like any other");
    let error = Authority::open(&identity, &first.state_dir()).err().expect("no key").to_string();
    assert!(error.contains("h1 does not hold") && error.contains("ca.key"), "{error}");
}

fn view(zones: &[(&str, u32, bool)]) -> View {
    let zone = |(name, hosts, local): &(&str, u32, bool)| v1::Zone {
        name: (*name).into(),
        id: ZoneId::of(name).to_string(),
        hosts: *hosts,
        local: *local,
        ..v1::Zone::default()
    };
    View { zones: Arc::new(zones.iter().map(zone).collect()), ..View::default() }
}

#[test]
fn the_513th_host_of_a_zone_is_refused_and_so_is_a_zone_that_would_be_mistaken() {
    let first = FirstHost::new("h1");
    let authority = first.authority();
    let view = view(&[("east", 512, true), ("west", 511, false), ("costarring", 1, false)]);
    let check = |zone: &str| check_zone(&authority, &view, zone, now());
    for zone in ["west", "costarring", "new"] {
        check(zone).expect("there is room");
    }
    let full = check("east").expect_err("there is none");
    assert_eq!(full.reason(), Reason::ZoneFull);
    assert!(full.text.contains("--zone"), "{}", full.text);
    let alike = check("liquid").expect_err("its id is taken");
    assert_eq!(alike.reason(), Reason::Zone);
    assert!(alike.text.contains("costarring"), "{}", alike.text);
    assert_eq!(check("West!").expect_err("it is no name").reason(), Reason::Malformed);
    let names: Vec<String> = (0..64).map(|number| format!("z{number}")).collect();
    let many = self::view(&names.iter().map(|name| (name.as_str(), 1, false)).collect::<Vec<_>>());
    assert_eq!(check_zone(&authority, &many, "new", now()).expect_err("one too many").reason(), Reason::Zone);
}

#[test]
fn hosts_that_were_just_admitted_to_a_zone_count() {
    let first = FirstHost::new("h1");
    let mut authority = first.authority();
    let view = view(&[("west", 511, false)]);
    let token = token(&mut authority, address());
    let join = JoinRequest { zone: "west".into(), ..request(&token, "h2", &CertificateParams::default()) };
    authority.admit(&join, now(), |_| false, |_| false).expect("the token is good");
    assert_eq!(check_zone(&authority, &view, "west", now()).expect_err("it is full now").reason(), Reason::ZoneFull);
}
