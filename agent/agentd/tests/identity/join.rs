//! `ringmesh join` against a server.

use std::{net::UdpSocket, sync::Mutex};

use ringmesh_agentd::identity::{
    Identity, IdentityError, JoinError, PeerIdentity, Role, admission::Authority, commands, seeds, server_name, tls,
};
use ringmesh_proto::{
    peer::{JoinResponse, refusal::Reason},
    token::Token,
};

use crate::support::{Answer, FirstHost, HOUR, Seen, Server, dial, init_options, join, now};

/// A first host, its server, and a token for `uses` hosts.
fn served(uses: u32) -> (FirstHost, Server, Token) {
    let first = FirstHost::new("h1");
    let mut authority = first.authority();
    // The address is put in afterwards: the server starts with the authority.
    let mut token =
        authority.create_token(HOUR, uses, vec![([127, 0, 0, 1], 1).into()], now()).expect("within all bounds");
    let server = Server::start(first.identity.clone(), Answer::honestly(authority));
    token.addresses = vec![server.address];
    (first, server, token)
}

fn text(result: Result<impl std::fmt::Debug, IdentityError>) -> String {
    let text = result.expect_err("it must be refused").to_string();
    assert!(!text.contains('\n'), "one line: {text}");
    text
}

#[tokio::test]
async fn a_host_joins_and_both_know_each_other() {
    let (first, mut server, token) = served(1);
    let directory = tempfile::tempdir().expect("a directory for the test");
    let outcome = join(directory.path(), "h2", &token).await.expect("a good token");
    assert_eq!((outcome.cluster, outcome.via), (first.identity.cluster, server.address));
    assert_eq!(server.next().await, Seen::Caller(Ok(tls::Caller::Joining)));

    let state_dir = directory.path().join("state");
    let second = Identity::load(&state_dir).expect("it was just written");
    assert_eq!((second.host, second.name.as_str()), (outcome.host, "h2"));
    assert_eq!(second.ring_seed, first.identity.ring_seed);
    assert!(!second.is_authority() && second.host != first.identity.host);
    let known = seeds::read(&state_dir).expect("it was just written");
    assert_eq!((known[0].id, known[0].addresses[0]), (first.identity.host, Some(server.address)));

    let to_first = server_name(first.identity.cluster, first.identity.host);
    let config = tls::peer_client_config(&second).expect("a loaded identity");
    assert_eq!(dial(config, server.address, &to_first).await, Ok(()));
    let peer = PeerIdentity { cluster: second.cluster, role: Role::Host(second.host) };
    assert_eq!(server.next().await, Seen::Caller(Ok(tls::Caller::Peer(peer))));

    let to_second = server_name(second.cluster, second.host);
    let reverse = Server::start(second.into(), Answer::WithoutAuthority);
    let config = tls::peer_client_config(&first.identity).expect("a loaded identity");
    assert_eq!(dial(config, reverse.address, &to_second).await, Ok(()));
}

#[tokio::test]
async fn a_token_admits_as_often_as_it_says_and_a_host_joins_once() {
    let (_first, _server, token) = served(2);
    let directory = tempfile::tempdir().expect("a directory for the test");
    let place = |name: &str| directory.path().join(name);
    join(&place("h2"), "h2", &token).await.expect("first use");
    assert!(text(join(&place("h2"), "h2", &token).await).contains("already has an identity"));
    let taken = join(&place("taken"), "taken", &token).await;
    assert!(matches!(taken, Err(IdentityError::Join(JoinError::Refused { reason: Reason::NameTaken, .. }))));
    let again = join(&place("again"), "h2", &token).await;
    assert!(text(again).contains("a host named h2"), "gossip does not know it yet, the authority does");
    join(&place("h3"), "h3", &token).await.expect("second use: refusals cost none");
    let used = join(&place("h4"), "h4", &token).await;
    assert!(matches!(&used, Err(IdentityError::Join(JoinError::Refused { reason: Reason::Token, .. }))));
    assert!(text(used).contains("used as often as it may be"));
    assert!(!place("h4").join("state/identity").exists());
}

#[tokio::test]
async fn tokens_that_are_no_good_are_refused_with_the_reason() {
    let first = FirstHost::new("h1");
    let mut authority = first.authority();
    let placeholder = vec![([127, 0, 0, 1], 1).into()];
    let mut good = authority.create_token(HOUR, 1, placeholder.clone(), now()).expect("within all bounds");
    let mut old = authority.create_token(HOUR, 1, placeholder, now() - 7200).expect("within all bounds");
    let mut server = Server::start(first.identity.clone(), Answer::honestly(authority));
    good.addresses = vec![server.address];
    old.addresses = vec![server.address];
    let directory = tempfile::tempdir().expect("a directory for the test");
    let attempt = async |token: String| text(join(directory.path(), "h2", token).await);

    let whole = good.to_string();
    assert!(attempt(whole[..whole.len() - 1].into()).await.contains("damaged"));
    assert!(attempt("hello".into()).await.contains("not a join token"));
    assert!(attempt(old.to_string()).await.contains("expired at"), "seen here, without asking");
    assert!(server.seen.try_recv().is_err(), "nobody was asked yet");

    old.expires_at = now() + 3600;
    assert!(attempt(old.to_string()).await.contains("refuses: the token expired at"));
    let mut wrong = good.clone();
    wrong.secret[0] ^= 1;
    assert!(attempt(wrong.to_string()).await.contains("not known here"));
    let mut wrong = good.clone();
    wrong.id[0] ^= 1;
    assert!(attempt(wrong.to_string()).await.contains("not known here"));
    let mut wrong = good.clone();
    wrong.ca_fingerprint[0] ^= 1;
    assert!(attempt(wrong.to_string()).await.contains("another cluster, or somebody in the middle"));
    join(directory.path(), "h2", &good).await.expect("all that cost no use");
}

#[tokio::test]
async fn the_next_address_is_tried_and_silence_is_named() {
    let (_first, server, mut token) = served(1);
    let other = FirstHost::new("stranger");
    let stranger = Server::start(other.identity.clone(), Answer::WithoutAuthority);
    let silent = UdpSocket::bind("127.0.0.1:0").expect("loopback").local_addr().expect("it is bound");
    let directory = tempfile::tempdir().expect("a directory for the test");

    token.addresses = vec![silent, ([0, 0, 0, 0, 0, 0, 0, 1], 7400).into()];
    let result = join(directory.path(), "h2", &token).await;
    assert!(matches!(result, Err(IdentityError::Join(JoinError::Unreachable { .. }))));
    let text = text(result);
    assert!(text.contains(&silent.to_string()) && text.contains("firewalls") && text.contains("[::1]:7400"), "{text}");

    token.addresses = vec![stranger.address, server.address];
    let outcome = join(directory.path(), "h2", &token).await.expect("the second address is right");
    assert_eq!(outcome.via, server.address);
}

#[tokio::test]
async fn a_host_without_the_key_says_so() {
    let (first, _server, mut token) = served(1);
    let server = Server::start(first.identity.clone(), Answer::WithoutAuthority);
    token.addresses = vec![server.address];
    let directory = tempfile::tempdir().expect("a directory for the test");
    let result = join(directory.path(), "h2", &token).await;
    assert!(matches!(&result, Err(IdentityError::Join(JoinError::Refused { reason: Reason::NoAuthority, .. }))));
    assert!(text(result).contains("h1 does not hold the CA's key"));
}

#[tokio::test]
async fn false_answers_are_not_believed() {
    type Change = fn(&mut JoinResponse);
    let cases: [(Change, &str); 8] = [
        (|response| response.cluster ^= 1, "another cluster than its own"),
        (|response| response.host ^= 1, "names another host"),
        (|response| response.authorities.clear(), "did not send the CA certificate"),
        (|response| response.authorities.push(vec![0x30].into()), "malformed CA"),
        (|response| response.authorities = vec![response.authorities[0].clone(); 9], "too many CA"),
        (|response| response.certificate = response.authorities[0].clone(), "not signed by the token's CA"),
        (|response| response.certificate.clear(), "not signed by the token's CA"),
        (|response| response.seeds[0].address_a = "nowhere".into(), "malformed member"),
    ];
    for (change, expected) in cases {
        let first = FirstHost::new("h1");
        let mut authority = first.authority();
        let placeholder = vec![([127, 0, 0, 1], 1).into()];
        let mut token = authority.create_token(HOUR, 1, placeholder, now()).expect("within all bounds");
        let answer = Answer::Falsely(Box::new(Mutex::new(authority)), change);
        let server = Server::start(first.identity.clone(), answer);
        token.addresses = vec![server.address];
        let directory = tempfile::tempdir().expect("a directory for the test");
        let error = text(join(directory.path(), "h2", &token).await);
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(!directory.path().join("state/identity").exists());
    }
}

#[tokio::test]
async fn garbage_and_oversized_answers_are_refused() {
    let cases: [(&[u8], &str); 4] = [
        (&[0xff, 0xff, 0xff, 0xff, 0], "more than the 65536 allowed"),
        (&[0, 0, 0, 9, 1], "did not answer"),
        (&[0, 0, 0, 2, 0xff, 0xff], "answered wrongly: malformed"),
        (&[0, 0, 0, 2, 8, 9], "version 9 of the peer protocol"),
    ];
    for (bytes, expected) in cases {
        let (first, _server, mut token) = served(1);
        let server = Server::start(first.identity.clone(), Answer::Bytes(bytes));
        token.addresses = vec![server.address];
        let directory = tempfile::tempdir().expect("a directory for the test");
        let error = text(join(directory.path(), "h2", &token).await);
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[tokio::test]
async fn chords_are_those_of_the_first_hosts_configuration_at_all_hosts() {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let place = |name: &str| directory.path().join(name);
    let configure = |name: &str, mesh: &str| {
        std::fs::create_dir(place(name)).expect("our own directory");
        let state = place(name).join("state");
        let text = format!(
            "[host]\nname = \"{name}\"\nstate_dir = \"{}\"\n[uplink.a]\naddress = \"127.0.0.1\"\n{mesh}",
            state.display()
        );
        std::fs::write(place(name).join("agent.toml"), text).expect("our own directory");
    };
    configure("h1", "[mesh]\nchords = { kind = \"rack-aware\", count = 3 }\n");
    commands::init(&init_options(&place("h1"), "h1")).expect("nothing is there yet");
    let first = Identity::load(&place("h1").join("state")).expect("our own files");
    assert_eq!(first.chords.to_string(), "rack-aware:3");

    let mut authority = Authority::open(&first, &place("h1").join("state")).expect("the first host has the CA's key");
    let mut token =
        authority.create_token(HOUR, 2, vec![([127, 0, 0, 1], 1).into()], now()).expect("within all bounds");
    let server = Server::start(first.into(), Answer::honestly(authority));
    token.addresses = vec![server.address];
    configure("h2", "[mesh]\nchords = \"none\"\n");
    let outcome = join(&place("h2"), "h2", &token).await.expect("a good token");
    assert_eq!(outcome.refused_chords.map(|chords| chords.to_string()).as_deref(), Some("none"));
    let outcome = join(&place("h3"), "h3", &token).await.expect("a good token");
    assert_eq!((outcome.refused_chords, outcome.chords.to_string().as_str()), (None, "rack-aware:3"));
    for name in ["h2", "h3"] {
        let identity = Identity::load(&place(name).join("state")).expect("it was just written");
        assert_eq!(identity.chords, outcome.chords, "{name}");
    }
}

#[tokio::test]
async fn chords_that_this_version_does_not_know_are_refused() {
    let first = FirstHost::new("h1");
    let mut authority = first.authority();
    let mut token =
        authority.create_token(HOUR, 1, vec![([127, 0, 0, 1], 1).into()], now()).expect("within all bounds");
    let lie = |response: &mut JoinResponse| response.chords = "hypercube:4".into();
    let server = Server::start(first.identity.clone(), Answer::Falsely(Box::new(Mutex::new(authority)), lie));
    token.addresses = vec![server.address];
    let directory = tempfile::tempdir().expect("a directory for the test");
    let refused = text(join(directory.path(), "h2", &token).await);
    assert!(refused.contains("chords that this version does not know"), "{refused}");
    assert!(!directory.path().join("state/identity").exists());
}
