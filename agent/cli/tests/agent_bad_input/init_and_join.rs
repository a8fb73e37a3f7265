//! `ringmesh init` and `ringmesh join` that cannot be.

use ringmesh_proto::token::Token;

use crate::support::{Site, expect_good, expect_refused, free_udp, ringmesh};

#[test]
fn init_twice_and_init_of_nothing() {
    let site = Site::init("h1");
    let init = ["init", "--config", &site.config()];
    let key = std::fs::read(site.identity("host.key")).expect("init made it");
    expect_refused(
        ringmesh(&init),
        1,
        &["already has an identity", &site.text_path("state/identity"), "ringmesh agent"],
    );
    assert_eq!(std::fs::read(site.identity("host.key")).expect("it is still there"), key);
    let renamed = ["init", "--config", &site.config(), "--name", "h2"];
    expect_refused(ringmesh(&renamed), 1, &["--name h2", "host.name is h1", "change the file"]);

    let nowhere = site.text_path("nowhere.toml");
    expect_refused(ringmesh(&["init", "--config", &nowhere]), 1, &[&nowhere, "--uplink-a"]);
    let bad_name = ["init", "--config", &nowhere, "--uplink-a", "127.0.0.1", "--name", "Host 1"];
    expect_refused(ringmesh(&bad_name), 1, &["host.name", "Host 1", "a-z, 0-9"]);
    let file = format!("{}/below", site.config());
    let below = ["init", "--config", &nowhere, "--uplink-a", "127.0.0.1", "--name", "h1", "--state-dir", &file];
    expect_refused(ringmesh(&below), 1, &[&file, "cannot make"]);
    assert!(!site.path("state/identity.tmp").exists());
}

fn token(issuer: &Site, uses: &str) -> Token {
    let ran = expect_good(issuer.ask(&["token", "create", "--ttl", "1m", "--uses", uses]));
    let token: Token = ran.out.trim().parse().expect("a token");
    assert_eq!(token.addresses, issuer.uplinks);
    token
}

/// Must fail, and leave no half of an identity.
fn refuses(site: &Site, token: &str, words: &[&str]) {
    expect_refused(ringmesh(&["join", token, "--config", &site.config()]), 1, words);
    assert!(!site.path("state/identity").exists(), "{words:?}");
}

#[test]
fn tokens_that_do_not_admit() {
    let issuer = Site::init("h1");
    let mut agent = issuer.start();
    let good = token(&issuer, "1");
    let text = good.to_string();
    let site = Site::new("h2");

    refuses(&site, "hunter2", &["not a join token", "ringmesh token create"]);
    refuses(&site, &text[..text.len() - 3], &["damaged", "copy it again"]);
    let mistyped = format!("{}{}{}", &text[..20], if &text[20..21] == "A" { "B" } else { "A" }, &text[21..]);
    refuses(&site, &mistyped, &["damaged"]);
    let expired = Token { expires_at: 1_700_000_000, ..good.clone() };
    refuses(&site, &expired.to_string(), &["expired at 2023-11-14T22:13:20Z", "ringmesh token create"]);
    // Its clock says it is good, and the issuer knows better.
    let forged = Token { secret: [0; 16], ..good.clone() };
    refuses(&site, &forged.to_string(), &["not known", &issuer.uplinks[0].to_string(), "ringmesh token create"]);
    let pinned = Token { ca_fingerprint: [7; 32], ..good.clone() };
    refuses(&site, &pinned.to_string(), &["its CA is not the token's", "another cluster", "make a new token"]);
    let namesake = Site::new("h1");
    refuses(&namesake, &text, &["h1", "name", &issuer.uplinks[0].to_string()]);

    // None of that cost a use of the good one.
    expect_good(ringmesh(&["join", &text, "--config", &site.config()]));
    refuses(&Site::new("h3"), &text, &["used as often as it may be", "make a new one"]);
    expect_refused(ringmesh(&["join", &text, "--config", &site.config()]), 1, &["already has an identity"]);

    // A host without the CA's key makes no tokens, and says who does.
    let mut second = site.start();
    expect_refused(site.ask(&["token", "create"]), 5, &["h2", "CA"]);
    let elsewhere = Token { addresses: vec![site.uplinks[0]], ..token(&issuer, "1") };
    refuses(&Site::new("h3"), &elsewhere.to_string(), &["h2", "CA's key", "a host that does"]);
    assert!(agent.runs() && second.runs());
}

#[test]
fn bounds_of_a_token() {
    let issuer = Site::init("h1");
    let _agent = issuer.start();
    expect_refused(issuer.ask(&["token", "create", "--ttl", "721h"]), 2, &["30 days", "--ttl"]);
    expect_refused(issuer.ask(&["token", "create", "--uses", "1001"]), 2, &["1000", "--uses"]);
}

#[test]
fn nobody_answers_where_the_token_says() {
    let site = Site::new("h2");
    // One uplink is enough to wait for.
    let text = site.text();
    let (before, after) = (text.find("[uplink.b]").expect("it is there"), text.find("[api]").expect("it is there"));
    site.configure(&format!("{}{}", &text[..before], &text[after..]));
    let address = free_udp(1);
    let token = Token {
        id: [1; 8],
        secret: [2; 16],
        ca_fingerprint: [3; 32],
        expires_at: u64::from(u32::MAX),
        uses: 1,
        addresses: vec![address],
    };
    refuses(&site, &token.to_string(), &["no host of the cluster answers", &address.to_string(), "firewalls"]);
}
