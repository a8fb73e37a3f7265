//! Removing every trace of an instance, whether its agent runs or not; for the lab.

use std::{fs, io, path::Path};

use super::{
    cgroup,
    driver::DriverError,
    network,
    oci::{control, layout::Layout},
};

/// Why something was left behind.
#[derive(Debug, thiserror::Error)]
#[error("containers of {instance} are not removed entirely: {problem}")]
pub struct TeardownError {
    instance: String,
    problem: String,
}

/// Kills and deletes all containers of `instance` and removes `containers` and `runtime` below `state_dir`.
///
/// Blocks. Goes on after an error and reports the first one. The agent must not run, or it starts them again.
/// Bridges stay: others may use them.
pub fn teardown(state_dir: &Path, instance: &str) -> Result<(), TeardownError> {
    let layout = Layout::new(state_dir, instance);
    let names = layout.names();
    let mut problems: Vec<String> = Vec::new();
    let mut note = |result: Result<(), DriverError>| problems.extend(result.err().map(|error| error.one_line()));
    for name in &names {
        note(control::delete(&layout, name));
    }
    // Also those that have left no file.
    note(cgroup::remove(instance, "").map_err(DriverError::io("remove control groups of", instance)));
    note(cgroup::remove_cgroups(instance).map_err(DriverError::io("remove control groups of", instance)));
    note(remove_interfaces(names.iter().map(|name| network::interface_name(instance, name)).collect()));
    for directory in [layout.bundles(), layout.runtimes()] {
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                note(Err(DriverError::io("remove", directory)(error)));
            }
            _ => {}
        }
    }
    match problems.into_iter().next() {
        None => Ok(()),
        Some(problem) => Err(TeardownError { instance: instance.into(), problem }),
    }
}

/// The kernel removes them with their namespaces, but later. On a thread, because the caller may be in an event loop.
fn remove_interfaces(names: Vec<String>) -> Result<(), DriverError> {
    if names.is_empty() {
        return Ok(());
    }
    let work = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
        runtime.map_err(DriverError::io("make", "an event loop"))?.block_on(network::remove(&names))
    };
    let thread = std::thread::Builder::new().name("teardown".into()).spawn(work);
    let result = thread.map_err(DriverError::io("start", "a thread"))?.join();
    result.unwrap_or_else(|_| Err(DriverError::io("wait for", "a thread")(io::Error::other("it panicked"))))
}
