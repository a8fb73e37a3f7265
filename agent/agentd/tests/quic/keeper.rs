//! The keeper: it renews by itself in time, and says who can do what it cannot.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use ringmesh_agentd::{
    host_loop::Command,
    identity::{Keyring, admission::AuthoritySlot},
    keeper::{Keeper, KeeperError},
};
use ringmesh_node::{Peer, View, Way};
use ringmesh_proto::{HostId, Uplink, signed, v1};
use tokio::sync::mpsc;

use crate::support::{Cluster, Host, now, read, until, within};

/// A keeper of a host whose view the test writes, and what it tells the host loop.
struct Kept {
    keeper: Arc<Keeper>,
    authority: AuthoritySlot,
    commands: mpsc::Receiver<Command>,
    _directory: tempfile::TempDir,
}

fn keep(host: &Host) -> Kept {
    let directory = tempfile::tempdir().expect("a directory for the test");
    let (sender, commands) = mpsc::channel(16);
    let authority = AuthoritySlot::default();
    let keeper = Keeper::new(
        Arc::clone(&host.keyring),
        host.transport.clone(),
        host.view.subscribe(),
        Arc::clone(&authority),
        directory.path().to_owned(),
        sender,
    );
    Kept { keeper, authority, commands, _directory: directory }
}

/// As gossip would show it.
fn show(at: &Host, hosts: &[(&Host, &str)]) {
    let shown = |(host, name): &(&Host, &str)| {
        let short = |print: [u8; 32]| format!("{:016x}", signed::short(&print));
        let signs_with = if host.keyring.is_signer() { short(host.keyring.head()) } else { String::new() };
        v1::Host {
            name: (*name).into(),
            id: host.id().to_string(),
            state: v1::host::State::Alive as i32,
            local: host.id() == at.id(),
            certificate: Some(v1::HostCertificate {
                issuer: host.keyring.issuer().map(short).unwrap_or_default(),
                signs_with,
                ..v1::HostCertificate::default()
            }),
            ..v1::Host::default()
        }
    };
    let peer = |(host, name): &(&Host, &str)| {
        (
            host.id(),
            Peer {
                member: host.member,
                name: (*name).into(),
                askable: true,
                way: Way::over(Uplink::A),
                fingerprint: 0,
            },
        )
    };
    at.view.send_replace(Arc::new(View {
        hosts: Arc::new(hosts.iter().map(shown).collect()),
        peers: Arc::new(hosts.iter().filter(|(host, _)| host.id() != at.id()).map(peer).collect()),
        ..View::default()
    }));
}

#[tokio::test]
async fn a_host_renews_by_itself_before_its_certificate_ends_and_keeps_its_connections() {
    let cluster = Cluster::new();
    let mut h1 = Host::start_with_keyring(&cluster.first, cluster.keyring());
    let h2 = Host::start(&cluster.admit("h2"));
    let short = Keyring::open(&cluster.first, &cluster.state_dir(), Duration::from_secs(6)).expect("our own files");
    let (key, csr) = h2.keyring.request().expect("randomness");
    let certificate = short.sign(&csr, h2.id(), "h2", now()).expect("it signs");
    h2.keyring.install_certificate(certificate, &key, now()).expect("it is for this host");
    let before = h2.keyring.facts();
    h2.reach(&mut h1, Uplink::A, b"before").await;

    show(&h2, &[(&h1, "h1"), (&h2, "h2")]);
    let mut kept = keep(&h2);
    tokio::spawn(Arc::clone(&kept.keeper).run());
    until("a new certificate is in use", || h2.keyring.facts().serial != before.serial).await;
    assert!(now() < before.not_after, "in time");
    assert!(h2.keyring.facts().not_after > before.not_after + 86_400);
    assert!(kept.keeper.renews_at() > before.not_after);
    // First the one that it had, then the one that it has.
    for expected in [before.not_after, h2.keyring.facts().not_after] {
        let told = within("it is told", kept.commands.recv()).await;
        assert!(matches!(told, Some(Command::Certificate(told)) if told.ends_unix == expected), "{told:?}");
    }
    h2.reach(&mut h1, Uplink::A, b"after").await;
    assert_eq!(read(&h2.counters.messages_unsent), 0);
}

#[tokio::test]
async fn a_new_ca_makes_every_keeper_renew_and_the_old_one_goes_when_all_have() {
    let cluster = Cluster::new();
    let h1 = Host::start_with_keyring(&cluster.first, cluster.keyring());
    let h2 = Host::start(&cluster.admit("h2"));
    show(&h1, &[(&h1, "h1"), (&h2, "h2")]);
    let (k1, k2) = (keep(&h1), keep(&h2));
    for kept in [&k1, &k2] {
        tokio::spawn(Arc::clone(&kept.keeper).run());
    }
    k1.keeper.rotate(Duration::ZERO).await.expect("it holds the key");
    assert_eq!(h1.keyring.issuer(), Some(h1.keyring.head()));
    let error = k1.keeper.retire(false).await.expect_err("h2 is behind").to_string();
    assert!(error.contains("h2") && error.contains("--force"), "{error}");

    h2.keyring.accept(&h1.keyring.records(), now()).expect("nothing is written");
    show(&h2, &[(&h1, "h1"), (&h2, "h2")]);
    until("h2 has renewed", || h2.keyring.issuer() == Some(h1.keyring.head())).await;
    show(&h1, &[(&h1, "h1"), (&h2, "h2")]);
    until("the old CA goes by itself", || h1.keyring.authorities().len() == 1).await;
    assert_eq!(h1.keyring.trust_version(), 2);
    assert!(k2.authority.lock().expect("nobody panicked").is_none());
}

#[tokio::test]
async fn who_cannot_sign_says_who_can() {
    let cluster = Cluster::new();
    let h1 = Host::start_with_keyring(&cluster.first, cluster.keyring());
    let h2 = Host::start(&cluster.admit("h2"));
    let kept = keep(&h2);
    let error = kept.keeper.renew().await.expect_err("it knows nobody").to_string();
    assert!(error.contains("ringmesh ca share"), "{error}");
    let error = kept.keeper.rotate(Duration::ZERO).await.expect_err("it has no key").to_string();
    assert!(error.contains("none is known"), "{error}");

    show(&h2, &[(&h1, "h1"), (&h2, "h2")]);
    for result in [
        kept.keeper.rotate(Duration::ZERO).await,
        kept.keeper.retire(true).await,
        kept.keeper.share("h1").await,
        kept.keeper.revoke("h1", Bytes::new()).await.map(drop),
    ] {
        let error = result.expect_err("it has no key");
        assert!(matches!(&error, KeeperError::NotSigner { signers, .. } if *signers == ["h1"]), "{error}");
        assert!(error.to_string().ends_with("ask h1"), "{error}");
    }
    kept.keeper.renew().await.expect("h1 signs");

    show(&h1, &[(&h1, "h1"), (&h2, "h2")]);
    let kept = keep(&h1);
    assert!(matches!(kept.keeper.share("h9").await, Err(KeeperError::NoHost(_))));
    assert!(matches!(kept.keeper.revoke("h9", Bytes::new()).await, Err(KeeperError::NoHost(_))));
    // A host that is forgotten by now is named by its id.
    kept.keeper.revoke("0000abcd", Bytes::new()).await.expect("an id");
    assert!(h1.keyring.is_revoked(HostId::new(0xabcd)));
    kept.keeper.share("h2").await.expect("it is alive");
    assert!(h2.keyring.is_signer());
}
