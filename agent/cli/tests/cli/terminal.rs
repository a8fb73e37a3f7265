//! On a terminal: colours, and lists that are drawn in place. `script` (util-linux) brings the terminal.

use std::{
    io::Read,
    process::{Command, Stdio},
};

use crate::{
    fake::{Agent, Manner},
    run::{asking, good},
};

/// The same command under `script`.
fn on_terminal(agent: &Agent, arguments: &str, env: &[(&str, &str)]) -> Command {
    let mut command = Command::new("script");
    command
        .args(["-qefc", &format!("{} {arguments}", env!("CARGO_BIN_EXE_ringmesh")), "/dev/null"])
        .env("RINGMESH_HOST", agent.socket())
        .env("TERM", "xterm")
        .env_remove("NO_COLOR")
        .envs(env.iter().copied())
        .stdin(Stdio::null());
    command
}

fn shown(mut command: Command) -> String {
    let output = command.output().expect("script (Debian: bsdutils) is needed for tests on a terminal");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn colours_only_where_they_are_seen_and_wanted() {
    let agent = Agent::start(Manner::default());
    let painted = shown(on_terminal(&agent, "host list", &[]));
    assert!(painted.contains("\x1b[32malive\x1b[0m") && painted.contains("\x1b[31mdown\x1b[0m"), "{painted:?}");
    let plain = good(&agent, &["host", "list"]);
    assert!(!plain.contains('\x1b'), "{plain:?}");
    for (arguments, env) in
        [("host list", &[("NO_COLOR", "1")][..]), ("host list --no-color", &[]), ("host list", &[("TERM", "dumb")])]
    {
        assert_eq!(shown(on_terminal(&agent, arguments, env)).replace('\r', ""), plain);
    }
    let mut piped = asking(&agent, &["ring", "show"]);
    let piped = piped.output().expect("the binary starts").stdout;
    assert!(!piped.contains(&0x1b));
}

#[test]
fn a_watched_list_is_drawn_in_place() {
    let agent = Agent::start(Manner::default());
    let mut child =
        on_terminal(&agent, "host list --watch", &[]).stdout(Stdio::piped()).spawn().expect("script starts");
    let mut out = child.stdout.take().expect("piped");
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    // Header and h1: h2 was removed. Ages move, so it is drawn again without a change.
    while !String::from_utf8_lossy(&seen).contains("\x1b[2A\r\x1b[J") {
        let count = out.read(&mut buffer).expect("reads");
        assert!(count > 0, "ended early: {}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&buffer[..count]);
    }
    // The command ends by itself then, and `script` with it.
    drop(agent);
    out.read_to_end(&mut seen).expect("reads");
    assert_eq!(child.wait().expect("ours").code(), Some(3));
    assert!(String::from_utf8_lossy(&seen).contains("\x1b[32malive"));
}
