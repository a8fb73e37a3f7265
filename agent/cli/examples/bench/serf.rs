//! How a serf agent is started in a lab: with its defaults, on uplink A of a host.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use ringmesh_agentd::lab::HostStatus;

/// What serf says of its version.
pub(crate) fn version(program: &Path) -> Result<String, String> {
    let output = Command::new(program).arg("version").output();
    let output = output.map_err(|error| format!("run {}: {error}; install the package serf", program.display()))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

/// An agent on the `index`th host, counted from 0, whose log is to be read from its standard output.
pub(crate) fn command(program: &Path, index: usize, host: &HostStatus) -> Command {
    // The first agent finds nobody when it joins itself; one that is started again must not do so.
    let peer = if index == 0 { 2 } else { 1 };
    let mut command = Command::new("ip");
    command
        .args(["netns", "exec", &host.netns])
        .arg(program)
        .args(["agent", &format!("-node={}", host.name), &format!("-bind=10.77.0.{}", index + 1)])
        .args(["-rpc-addr=127.0.0.1:7373", &format!("-retry-join=10.77.0.{peer}"), "-retry-interval=1s"])
        // Kind to serf: with one it needs less memory and less time.
        .env("GOMAXPROCS", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

/// The host that a line of the log reports `event` of.
pub(crate) fn subject<'a>(line: &'a str, event: &str) -> Option<&'a str> {
    line.split_once(event)?.1.strip_prefix(": ")?.split(' ').next()
}
