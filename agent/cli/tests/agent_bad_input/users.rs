//! Users of the API over TCP: what their certificates let them do, and what not.

use std::process::Command;

use crate::support::{Site, expect_good, expect_refused, ringmesh};

fn create(site: &Site, arguments: &[&str]) -> Command {
    let socket = site.socket().display().to_string();
    let out = site.text_path("users");
    ringmesh(&[&["--host", &socket, "cert", "create", "--out", &out][..], arguments].concat())
}

/// As that user, over TCP.
fn by(site: &Site, user: &str, arguments: &[&str]) -> Command {
    let file = |name: String| site.text_path(&format!("users/{name}"));
    let (ca, cert, key) = (file("ca.pem".into()), file(format!("{user}.pem")), file(format!("{user}.key")));
    let listen = site.listen.to_string();
    ringmesh(&[&["--host", &listen, "--ca", &ca, "--cert", &cert, "--key", &key][..], arguments].concat())
}

#[test]
fn each_user_may_do_what_its_role_says_and_no_more() {
    let site = Site::init("h1");
    let _agent = site.start();
    for (name, role) in [("ada", "admin"), ("otto", "operator"), ("rita", "reader")] {
        expect_good(create(&site, &[name, "--role", role]));
    }
    expect_good(create(&site, &["tom", "--role", "tenant", "--tenant", "acme", "--lifetime", "1h"]));

    let look = &["host", "list"][..];
    let act = &["disarm", "--reason", "a test"][..];
    let admit = &["token", "create"][..];
    for (user, may) in [("ada", [true; 3]), ("otto", [true, true, false]), ("rita", [true, false, false])] {
        for (arguments, may) in [look, act, admit].into_iter().zip(may) {
            if may {
                expect_good(by(&site, user, arguments));
            } else {
                expect_refused(by(&site, user, arguments), 5, &[user, "may not do this", "certificate"]);
            }
        }
    }
    for arguments in [look, act, admit] {
        expect_refused(by(&site, "tom", arguments), 5, &["tom", "tenant acme alone"]);
    }
    expect_refused(
        by(&site, "otto", &["cert", "create", "eve", "--role", "admin", "--out", &site.text_path("eve")]),
        5,
        &["an administrator's"],
    );
    assert!(!site.path("eve").exists(), "nothing is kept of what was refused");
}

#[test]
fn a_user_that_cannot_be_made_is_refused() {
    let site = Site::init("h1");
    let _agent = site.start();
    expect_good(create(&site, &["ada", "--role", "admin"]));
    expect_refused(create(&site, &["ada", "--role", "admin"]), 1, &["ada.key", "--out"]);
    expect_refused(create(&site, &["Ada", "--role", "admin"]), 1, &["no name of a user"]);
    expect_refused(create(&site, &["tom", "--role", "tenant", "--tenant", "a b"]), 2, &["no name of a tenant"]);
    expect_refused(create(&site, &["rita", "--role", "reader", "--tenant", "acme"]), 2, &["only a tenant's user"]);
    for lifetime in ["1s", "366d"] {
        expect_refused(create(&site, &["rita", "--role", "reader", "--lifetime", lifetime]), 2, &["365 days"]);
    }
}
