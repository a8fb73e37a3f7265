//! What is done to a container that exists: kill, delete, pause, resume. Everything here blocks.

use std::{fs, io, process::Command, time::Duration};

use crate::{
    config::OciRuntime,
    runtime::{
        cgroup,
        driver::{DriverError, one_line},
        oci::layout::{Layout, RUNTIMES, Record, runtime_name},
    },
};

/// The kernel needs this long at most to end a pid namespace; more means that a process hangs in it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Kills the first process, and by that its whole pid namespace.
pub(in crate::runtime) fn stop(layout: &Layout, name: &str) -> Result<(), DriverError> {
    let Some(record) = layout.record(name).filter(|record| record.is_of_this_boot()) else { return Ok(()) };
    // Frozen by version 1 of control groups, a process does not die before it is thawed.
    let thaw = || {
        if cgroup::is_frozen(&layout.instance, name)
            && let Err(error) = cgroup::set_frozen(&layout.instance, name, false)
        {
            tracing::debug!(container = name, %error, "cannot thaw what is to be killed");
        }
    };
    let path = format!("/proc/{}", record.pid);
    record.process().kill(PATIENCE, thaw).map_err(DriverError::io("kill the container's first process", path))
}

/// Stops it and removes all that a runtime and we keep of it, except the log. Does nothing if it is unknown.
pub(in crate::runtime) fn delete(layout: &Layout, name: &str) -> Result<(), DriverError> {
    stop(layout, name)?;
    for runtime in RUNTIMES {
        let state = layout.runtime_root(runtime).join(name);
        if !state.exists() {
            continue;
        }
        if runtime != OciRuntime::Libcontainer
            && let Err(error) = run(layout, runtime, &["delete", "--force", name])
        {
            // What it cannot delete, such as a container left halfway, is removed below all the same.
            tracing::debug!(container = name, %error, "the runtime could not delete the container");
        }
        match fs::remove_dir_all(&state) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(DriverError::io("remove", state)(error));
            }
            _ => {}
        }
    }
    let group = cgroup::path(&layout.instance, name);
    cgroup::remove(&layout.instance, name).map_err(DriverError::io("remove control group", group))?;
    layout.remove_record(name)
}

/// Freezes or thaws a container that was started.
pub(in crate::runtime) fn set_paused(layout: &Layout, name: &str, paused: bool) -> Result<(), DriverError> {
    let state = if paused { "running" } else { "paused" };
    let refusal = || DriverError::State { name: name.into(), state };
    let is_other = |_: &Record| cgroup::is_frozen(&layout.instance, name) != paused;
    layout.record(name).filter(Record::is_alive).filter(is_other).ok_or_else(refusal)?;
    // Not by the runtimes: they write down what they did, and on a full disk leave it half done.
    let what = if paused { "freeze control group" } else { "thaw control group" };
    let group = cgroup::path(&layout.instance, name);
    cgroup::set_frozen(&layout.instance, name, paused).map_err(DriverError::io(what, group))
}

/// An error of the crate with all its causes.
pub(in crate::runtime) fn libcontainer(error: libcontainer::error::LibcontainerError) -> DriverError {
    let mut message = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        let text = error.to_string();
        // Many of its errors repeat their causes.
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        cause = error.source();
    }
    DriverError::Runtime { runtime: "libcontainer", message: one_line(&message) }
}

fn run(layout: &Layout, runtime: OciRuntime, arguments: &[&str]) -> Result<(), DriverError> {
    let program = runtime_name(runtime);
    let output = Command::new(program)
        .arg("--root")
        .arg(layout.runtime_root(runtime))
        .args(arguments)
        .output()
        .map_err(|source| DriverError::Program { program: program.into(), source })?;
    if output.status.success() {
        return Ok(());
    }
    let message = last_message(&String::from_utf8_lossy(&output.stderr));
    Err(DriverError::Runtime { runtime: program, message: message.unwrap_or_else(|| output.status.to_string()) })
}

/// The last line that a runtime has printed or logged, as JSON or not.
pub(super) fn last_message(text: &str) -> Option<String> {
    let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
    let json: Option<serde_json::Value> = serde_json::from_str(line).ok();
    let message = json.as_ref().and_then(|json| json["msg"].as_str()).unwrap_or(line);
    Some(one_line(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_of_a_runtime_is_its_message() {
        assert_eq!(last_message("\n \n"), None);
        assert_eq!(last_message("first\nsecond one\n\n").as_deref(), Some("second one"));
        let logged = "{\"msg\":\"a\"}\n{\"msg\":\"no such\\nfile\",\"level\":\"error\"}\n";
        assert_eq!(last_message(logged).as_deref(), Some("no such file"));
    }

    #[test]
    fn what_was_never_started_can_be_deleted_but_not_paused() {
        let state = tempfile::tempdir().expect("a temporary directory");
        let layout = Layout::new(state.path(), "never-started");
        delete(&layout, "web").expect("nothing to do");
        let error = set_paused(&layout, "web", true).expect_err("it does not run");
        assert_eq!(error.to_string(), "container web is not running");
    }
}
